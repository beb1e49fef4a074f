"""Two trees of clusters, of who chose what and of what items are: an item's path in the one, then in the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer, width_of
from genrec_fast.tokenizers.clustering.tree import grow
from genrec_fast.tokenizers.co_occurrence import spectral_vectors
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import Dedup

__all__ = ["TwoTrees", "TwoTreesConfig"]


@dataclass(frozen=True, kw_only=True)
class TwoTreesConfig:
    """Settings of two balanced trees."""

    codebook_sizes: tuple[int, ...] = (128, 128)
    """children of a node, per level of each tree (EAGER: 128 or 256, two levels)"""
    window: int = 20
    """places within which two items of a history meet (ours)"""
    width: int = 64
    """eigenvectors that place the items in the first tree (ours)"""
    rounds: int = 30
    """of the subspace iteration that finds them"""
    iterations: int = 10
    """rounds of two-means per cut of a tree, at most"""
    dedup: Dedup = "colliding_only"
    """how items that share both leaves are told apart, see ``add_dedup_level``"""

    def __post_init__(self) -> None:
        check_fields(self, free=("codebook_sizes",))
        check_codebook_sizes("TwoTreesConfig", self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level, those of the first tree in front."""
        return (*self.codebook_sizes, *self.codebook_sizes)

    def build(self, catalog: Catalog) -> TwoTrees:
        return TwoTrees(self, width_of("TwoTreesConfig", "two_trees", catalog))


class TwoTrees(Tokenizer):
    """See ``TwoTreesConfig``; reads histories and features.

    The codes of the first half of the levels are those of ``Collaborative``, of the second half those of
    ``Hierarchical``: balanced trees of clusters (``clustering.tree.grow``) over ``spectral_vectors`` of the histories,
    and over the features.

    ``fit`` needs ``histories``. Progress is ("two_trees", levels done, levels, {"mse": ...}).

    Source: EAGER (arXiv:2406.14017, section 3.2): behaviour and semantic codes by hierarchical k-means, there over the
    item vectors of a trained DIN.
    """

    kind: ClassVar[str] = "two_trees"
    config_type: ClassVar[type] = TwoTreesConfig
    reads_features: ClassVar[bool] = True
    config: TwoTreesConfig

    def _fit(self, fit: Fit) -> None:
        if fit.histories is None:
            raise InvalidValueError("two_trees: histories must be given (of the training split), got None")
        config, found, generator = self.config, list[Tensor](), fit.generator()
        places = spectral_vectors(
            fit.histories,
            fit.num_items,
            width=config.width,
            window=config.window,
            rounds=config.rounds,
            seed=fit.seed,
        )
        for vectors in (places, fit.features):
            done = len(found) * len(config.codebook_sizes)

            def tell(level: int, levels: int, mse: float, done: int = done) -> None:
                fit.progress("two_trees", done + level, 2 * levels, {"mse": mse})

            _, codes = grow(
                vectors, config.codebook_sizes, iterations=config.iterations, generator=generator, progress=tell
            )
            found.append(codes)
        self._keep(torch.cat(found, 1), config.sizes)

    def encode(self, features: Tensor) -> Tensor:
        """Not possible: an item's place in the first tree comes from histories.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "two_trees: encode needs a tokenizer of feature vectors, such as rqkmeans; "
            "an item that no history holds has no place in the first tree"
        )

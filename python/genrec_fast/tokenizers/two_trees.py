"""Two trees of clusters, of who chose what and of what items are: an item's path in the one, then in the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, width_of
from genrec_fast.tokenizers.clustering.tree import grow
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collaborative import Collaborative, CollaborativeConfig
from genrec_fast.tokenizers.collisions.dedup import Dedup


@dataclass(frozen=True, kw_only=True)
class TwoTreesConfig(CollaborativeConfig):
    """Settings of two balanced trees: those of ``Collaborative``, whose tree is the first."""

    codebook_sizes: tuple[int, ...] = (128, 128)
    """children of a node, per level of each tree (EAGER: 128 or 256, two levels)"""
    dedup: Dedup = "colliding_only"
    """how items that share both leaves are told apart, see ``add_dedup_level``"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_codebook_sizes("TwoTreesConfig", self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level, those of the first tree in front."""
        return (*self.codebook_sizes, *self.codebook_sizes)

    def build(self, catalog: Catalog | None = None) -> TwoTrees:
        if catalog is None:
            raise InvalidValueError("TwoTreesConfig: catalog must be given, got None")
        return TwoTrees(self, width_of("TwoTreesConfig", "two_trees", catalog))


class TwoTrees(Collaborative):
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
        config, found, generator = self.config, list[Tensor](), fit.generator()
        for vectors in (self._places(fit), fit.features):
            done = len(found) * len(config.codebook_sizes)

            def tell(level: int, levels: int, mse: float, done: int = done) -> None:
                fit.progress("two_trees", done + level, 2 * levels, {"mse": mse})

            _, codes = grow(
                vectors, config.codebook_sizes, iterations=config.iterations, generator=generator, progress=tell
            )
            found.append(codes)
        self._keep(torch.cat(found, 1), config.sizes)

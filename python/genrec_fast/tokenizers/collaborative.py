"""Collaborative IDs: items that the same users choose share prefixes, whatever the items are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer
from genrec_fast.tokenizers.clustering.tree import grow
from genrec_fast.tokenizers.co_occurrence import spectral_vectors
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import Dedup


@dataclass(frozen=True, kw_only=True)
class CollaborativeConfig:
    """Settings of spectral clustering of the co-occurrence graph."""

    codebook_sizes: tuple[int, ...] = (64, 64)
    """children of a node, per level, without the dedup level"""
    window: int = 20
    """places within which two items of a history meet (CID: anywhere in it)"""
    width: int = 64
    """eigenvectors that place the items"""
    rounds: int = 30
    """of the subspace iteration that finds them"""
    iterations: int = 10
    """rounds of two-means per cut of the tree, at most"""
    dedup: Dedup = "rank"
    """how the items of one leaf are told apart, see ``add_dedup_level``"""

    def __post_init__(self) -> None:
        check_fields(self, free=("codebook_sizes",))
        check_codebook_sizes(type(self).__name__, self.codebook_sizes)

    def build(self, catalog: Catalog | None = None) -> Collaborative:
        return Collaborative(self, None if catalog is None else catalog.feature_dim)


class Collaborative(Tokenizer):
    """See ``CollaborativeConfig``; reads histories, no features.

    The items' places are ``spectral_vectors`` of how often two items meet in a history; a balanced tree of clusters
    over the places gives the codes (``balanced_tree.grow``), level by level as in ``Hierarchical``. Items that no
    history holds have one place in common and so share prefixes, where the balance allows it.

    ``fit`` needs ``histories``. Progress is ("collaborative", steps done, steps, {}): the places, then each level.

    Source: CID of Hua et al., "How to index item IDs for recommendation foundation models" (arXiv:2305.06569, section
    4.3): spectral clusters of the co-occurrence matrix, again within each. Here one set of eigenvectors serves all
    levels, and the clusters are of equal size.
    """

    kind: ClassVar[str] = "collaborative"
    config_type: ClassVar[type] = CollaborativeConfig
    config: CollaborativeConfig

    def _places(self, fit: Fit) -> Tensor:
        """Float ``[N, width]``: where the histories put the items."""
        if fit.histories is None:
            raise InvalidValueError(f"{self.kind}: histories must be given (of the training split), got None")
        config = self.config
        return spectral_vectors(
            fit.histories,
            fit.num_items,
            width=config.width,
            window=config.window,
            rounds=config.rounds,
            seed=fit.seed,
        )

    def _fit(self, fit: Fit) -> None:
        config, sizes = self.config, self.config.codebook_sizes
        steps = 1 + len(sizes)

        def tell(done: int, total: int, mse: float) -> None:
            fit.progress("collaborative", 1 + done, steps, {"mse": mse})

        vectors = self._places(fit)
        fit.progress("collaborative", 1, steps, {})
        _, codes = grow(vectors, sizes, iterations=config.iterations, generator=fit.generator(), progress=tell)
        self._keep(codes, sizes)

    def encode(self, features: Tensor) -> Tensor:
        """Not possible: an item's place comes from histories, not from features.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{self.kind}: encode needs a tokenizer of feature vectors, such as rqkmeans; "
            "an item that no history holds has no place in the graph"
        )

"""Collaborative IDs: items that the same users choose share prefixes, whatever the items are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.catalog import Catalog
from genrec_fast.checks import check_fields
from genrec_fast.errors import InvalidValueError, UnsupportedError
from genrec_fast.tokenizers.balanced_tree import grow
from genrec_fast.tokenizers.base import Progress, Tokenizer
from genrec_fast.tokenizers.collaborative_vectors import co_occurrence
from genrec_fast.tokenizers.collisions import resolve
from genrec_fast.tokenizers.dedup import Dedup
from genrec_fast.tokenizers.groups import check_codebook_sizes
from genrec_fast.types import Jagged

__all__ = ["Collaborative", "CollaborativeConfig", "spectral_vectors"]

_SPARE = 8  # columns beside the wanted ones, which make the wanted ones converge


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
        check_codebook_sizes("CollaborativeConfig", self.codebook_sizes)

    def build(self, catalog: Catalog) -> Collaborative:
        return Collaborative(self, catalog.feature_dim)


class Collaborative(Tokenizer):
    """See ``CollaborativeConfig``; reads histories, no features.

    The items' places are ``spectral_vectors`` of how often two items meet in a history; a balanced tree of clusters
    over the places gives the codes (``balanced_tree.grow``), level by level as in ``Hierarchical``. Items that no
    history holds have one place in common and so share prefixes, as far as the balance lets them.

    Source: CID of Hua et al., "How to index item IDs for recommendation foundation models" (arXiv:2305.06569, section
    4.3): spectral clusters of the co-occurrence matrix, again within each. Here one set of eigenvectors serves all
    levels, and the clusters are of equal size.
    """

    kind: ClassVar[str] = "collaborative"
    config_type: ClassVar[type] = CollaborativeConfig

    def fit(
        self,
        features: Tensor | None = None,
        *,
        num_items: int | None = None,
        seed: int = 0,
        histories: Jagged | None = None,
        categories: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Places the items and codes the catalog.

        Args:
            features: not read, but for their number.
            num_items: N; needed without features.
            seed: of the subspace and of the first direction of every cut.
            histories: item ids in ``[0, N)`` per user, oldest first, of the training split only: needed.
            categories: not read.
            progress: called with ("collaborative", steps done, steps, {}): the places, then each level.

        Raises:
            InvalidTypeError: histories are no ``Jagged`` of integers.
            InvalidValueError: histories are missing, or an item id is out of range.
        """
        count = self._count(features, num_items)
        if histories is None:
            raise InvalidValueError("collaborative: histories must be given (of the training split), got None")
        config, generator = self.config, self._generator(seed)
        steps = 1 + len(config.codebook_sizes)

        def tell(done: int, total: int, mse: float) -> None:
            if progress is not None:
                progress("collaborative", 1 + done, steps, {"mse": mse})

        vectors = spectral_vectors(
            histories, count, width=config.width, window=config.window, rounds=config.rounds, seed=seed
        )
        if progress is not None:
            progress("collaborative", 1, steps, {})
        sizes = config.codebook_sizes
        _, codes = grow(vectors, sizes, iterations=config.iterations, generator=generator, progress=tell)
        self._item_codes, self._codebook_sizes, self.resolution = resolve(codes, sizes, config.dedup)

    def encode(self, features: Tensor) -> Tensor:
        """Not possible: an item's place comes from who chose it.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "collaborative: encode needs a tokenizer of feature vectors, such as rqkmeans; "
            "an item that no history holds has no place in the graph"
        )


def spectral_vectors(
    histories: Jagged, num_items: int, *, width: int = 64, window: int = 20, rounds: int = 30, seed: int = 0
) -> Tensor:
    """Places of items such that items that are often chosen together lie near each other.

    ``A_ij`` = how often i and j meet; ``M = D^-1/2 A D^-1/2``, D the row sums; the eigenvectors of the ``width``
    largest eigenvalues of M are the columns, each row scaled to length 1.

    Args:
        histories: item ids in ``[0, num_items)`` per user, oldest first, of the training split only.
        num_items: N.
        width: columns, at least 1.
        window: places within which two items meet, at least 1.
        rounds: of the subspace iteration, at least 1.
        seed: of the first subspace.

    Returns:
        float32 ``[N, width]``; zeros for items that meet no other.

    Raises:
        InvalidTypeError: histories are not a ``Jagged`` of integers.
        InvalidValueError: an item id is out of range.

    Notes:
        Deterministic. O(pairs width) per round in float64; nothing of size N x N is made.

    Source:
        Ng, Jordan and Weiss, "On spectral clustering", NIPS 2001; the subspace iteration: Halko, Martinsson, Tropp,
        arXiv:0909.4061, algorithm 4.4, on (M + I) / 2, whose eigenvalues are not negative.
    """
    rows, columns, counts = co_occurrence(histories, num_items, window=window)
    degrees = torch.zeros(num_items, dtype=torch.float64).index_add_(0, rows, counts)
    scale = torch.where(degrees > 0, degrees.clamp(min=1.0).rsqrt(), 0.0)
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, columns]),
        counts * scale[rows] * scale[columns],
        (num_items, num_items),
        check_invariants=False,
    ).coalesce()
    met = (degrees > 0).double()[:, None]
    generator = torch.Generator().manual_seed(seed)
    columns_kept = min(num_items, width + _SPARE)
    basis = torch.randn(num_items, columns_kept, generator=generator, dtype=torch.float64) * met
    for _ in range(rounds):
        basis = torch.linalg.qr(0.5 * (torch.sparse.mm(matrix, basis) + basis)).Q * met
    values, small = torch.linalg.eigh(basis.T @ torch.sparse.mm(matrix, basis))
    order = values.sort(descending=True, stable=True).indices[:width]
    found = torch.nn.functional.normalize(basis @ small[:, order] * met, dim=1)
    out = torch.zeros(num_items, width)
    out[:, : found.shape[1]] = found.float()
    return out

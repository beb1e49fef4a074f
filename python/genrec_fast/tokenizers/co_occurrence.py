"""Vectors of items from who interacted with what: factorizations of their co-occurrences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INTEGERS, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged

_ROUNDS = 12  # of the subspace iteration: singular values that differ by a fifth are told apart to 1e-2
_SPARE = 8  # further columns, which make the wanted ones converge


def collaborative_vectors(
    histories: Jagged, num_items: int, *, width: int = 64, window: int = 5, shift: float = 1.0, seed: int = 0
) -> Tensor:
    """Item vectors whose inner products approach the shifted positive PMI of their co-occurrence.

    ::

        n_ij = how often items i and j stand within ``window`` places of each other in a history
        M_ij = max(0, log(n_ij n / (n_i n_j)) - log(shift));   U S V' = SVD of M;   vectors = U sqrt(S)

    Args:
        histories: item ids in ``[0, num_items)`` per user, oldest first. Pass the training split alone, so that
            vectors do not leak the answers of an evaluation.
        num_items: N.
        width: columns, at least 1; those above the rank of M are 0.
        window: places, at least 1.
        shift: at least 1; above it only pairs that meet more than ``shift`` times as often as by chance count.
        seed: of the first subspace.

    Returns:
        float32 ``[N, width]``, columns in falling order of S, each with its largest element (by magnitude, the first
        among equals) positive; an item that never meets another has a row of zeros.

    Raises:
        InvalidTypeError: histories are not a ``Jagged`` of integers.
        InvalidValueError: an item id, width, window or shift is out of range.

    Notes:
        Deterministic. A subspace iteration in float64: O(pairs width) per round; nothing of size N x N is made.
        Columns of nearly equal S may be mixed with each other; their span is not.

    Source:
        Levy and Goldberg, "Neural word embedding as implicit matrix factorization", NIPS 2014, section 5; the
        subspace iteration: Halko, Martinsson, Tropp, arXiv:0909.4061, algorithm 4.4.

    Example:
        >>> from genrec_fast.base.protocols import Jagged
        >>> vectors = collaborative_vectors(Jagged.from_rows([[0, 1], [2, 3], [0, 1]]), 5, width=2)
        >>> bool(torch.allclose(vectors[0], vectors[1])), float(vectors[4].abs().sum())
        (True, 0.0)
    """
    for name, value in (("width", width), ("window", window)):
        whole_number("collaborative_vectors", name, value)
    if not 1 <= shift < float("inf"):
        raise InvalidValueError(f"collaborative_vectors: shift must be at least 1, got {shift}")
    rows, columns, counts = co_occurrence(histories, num_items, window=window)
    degrees = torch.zeros(num_items, dtype=torch.float64).index_add_(0, rows, counts)
    pmi = torch.log(counts * degrees.sum() / (degrees[rows] * degrees[columns])) - torch.log(
        torch.tensor(shift).double()
    )
    kept = pmi > 0
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows[kept], columns[kept]]), pmi[kept], (num_items, num_items), check_invariants=False
    ).coalesce()
    vectors = torch.zeros(num_items, width, dtype=torch.float64)
    found = _factors(matrix, min(width, num_items), seed)
    vectors[:, : found.shape[1]] = found
    return vectors.float()


def co_occurrence(histories: Jagged, num_items: int, *, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """How often two different items stand within ``window`` places of each other in a history.

    Args:
        histories: item ids in ``[0, num_items)``.
        num_items: N.
        window: places, at least 1.

    Returns:
        rows int64 ``[P]``, columns int64 ``[P]``, counts float64 ``[P]``: both directions of each pair, sorted by row,
        then column.

    Raises:
        InvalidTypeError: histories are not a ``Jagged`` of integers.
        InvalidValueError: an item id is out of range.

    Notes:
        O(E window) time and memory, E interactions.
    """
    check_histories("co_occurrence", histories, num_items)
    values, users = histories.values.long(), histories.row_index()
    keys = []
    for distance in range(1, min(window, max(0, values.numel() - 1)) + 1):
        first, second = values[:-distance], values[distance:]
        together = (users[:-distance] == users[distance:]) & (first != second)
        first, second = first[together], second[together]
        keys += [first * num_items + second, second * num_items + first]
    unique, counts = torch.unique(torch.cat(keys) if keys else values.new_empty(0), return_counts=True)
    return unique // num_items, unique % num_items, counts.double()


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


def check_histories(op: str, histories: Any, num_items: int) -> None:
    """Item ids of the catalog, row by row.

    Raises:
        InvalidTypeError: not a ``Jagged`` of integers of one dimension.
        InvalidValueError: an item id out of range.
    """
    if not isinstance(histories, Jagged):
        raise InvalidTypeError(f"{op}: histories must be a Jagged of item ids, got {type(histories).__name__}")
    values = histories.values
    if values.dtype not in INTEGERS or values.dim() != 1:
        raise InvalidTypeError(f"{op}: histories must hold integers [E], got {values.dtype} {list(values.shape)}")
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < num_items):
        wrong = int(values.min()) if int(values.min()) < 0 else int(values.max())
        raise InvalidValueError(f"{op}: histories must hold item ids in [0, {num_items}), got {wrong}")


def _factors(matrix: Tensor, width: int, seed: int) -> Tensor:
    """U sqrt(S) of a symmetric sparse matrix, float64 ``[N, width]``."""
    size = matrix.shape[0]
    if matrix._nnz() == 0:
        return torch.zeros(size, 0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(size, min(size, width + _SPARE), generator=generator, dtype=torch.float64)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(torch.sparse.mm(matrix, basis)).Q
    values, small = torch.linalg.eigh(basis.T @ torch.sparse.mm(matrix, basis))  # symmetric: S = |eigenvalue|
    order = values.abs().sort(descending=True, stable=True).indices[:width]
    singular = values.abs()[order]
    singular = torch.where(singular > 1e-9 * singular[0], singular, 0.0)
    vectors = basis @ small[:, order]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    scaled: Tensor = vectors * (signs * singular.sqrt())
    return scaled

"""Items whose codes are alike: the graph that a walk over a catalog needs, made block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.checks import check_dense, check_integers, sequence, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops import topk_code_sums

_BLOCK_BYTES = 1 << 25  # of the scores of codes that are held at once
_MOST_PAIRS = 1 << 20  # of codes of a level: with more, cosines are made for the codes of a block


def _vectors(table: Any) -> Tensor:
    """float32 ``[K, D]`` of length 1, on the CPU."""
    check_dense("code_neighbours", "tables", table)
    if table.dim() != 2 or not table.is_floating_point():
        kind = str(table.dtype).removeprefix("torch.")
        raise InvalidTypeError(f"code_neighbours: tables must be float [K, D], got {kind} {list(table.shape)}")
    return F.normalize(table.detach().float().cpu(), dim=1)


@torch.no_grad()
def code_neighbours(tables: Sequence[Tensor], item_codes: Tensor, num_edges: int, rows: slice | None = None) -> Tensor:
    """For every item the num_edges items whose codes are most like its own, itself among them.

    ``likeness(i, j) = mean over levels l of (1 + cos(tables[l][codes[i, l]], tables[l][codes[j, l]])) / 2``

    Args:
        tables: per level float ``[K_l, D]``: the vectors of its codes.
        item_codes: uint8 or int32 ``[N, L]``, on the CPU.
        num_edges: at least 1; may exceed N.
        rows: only the items of this slice; ``None``: all.

    Returns:
        int32 ``[N, num_edges]`` (or as many rows as the slice has), the most alike first, ties to the lower id, -1
        behind the last. An item that has so many equals that it is not among them stands in the last place.

    Raises:
        InvalidTypeError: no tensors, or of another kind.
        InvalidValueError: num_edges below 1, as many tables as levels do not stand there, or codes that have no vector.

    Notes:
        No N x N matrix and no vectors of items: a level's cosines are a table of K x K, and an item is to
        ``ops.topk_code_sums`` a user whose scores are its codes' rows of them. N^2 L additions at most, 32 MiB of
        scores at once beside the result; ``bench/graph_memory.py`` shows the peak.

    Source: RPG (arXiv:2506.05781), section 3.3.
    """
    num_edges = whole_number("code_neighbours", "num_edges", num_edges)
    given = sequence("code_neighbours", "tables", tables)
    item_codes = check_integers("code_neighbours", "item_codes", item_codes, "[N, L]")
    if item_codes.dim() != 2 or item_codes.shape[1] != len(given):
        raise InvalidValueError(
            f"code_neighbours: tables must be one per level of item_codes [N, L] = {list(item_codes.shape)}, "
            f"got {len(given)}"
        )
    books = [_vectors(table) for table in given]
    sizes = [len(book) for book in books]
    for level, (size, column) in enumerate(zip(sizes, item_codes.unbind(1), strict=True)):
        if column.numel() and not 0 <= int(column.min()) <= int(column.max()) < size:
            wrong = int(column.min()) if int(column.min()) < 0 else int(column.max())
            raise InvalidValueError(f"code_neighbours: item_codes of level {level} must be in [0, {size}), got {wrong}")
    cosines = [book @ book.T if len(book) ** 2 <= _MOST_PAIRS else None for book in books]
    first, last, _ = (rows or slice(None)).indices(len(item_codes))
    out = torch.full((last - first, num_edges), -1, dtype=torch.int32)
    step = max(16, _BLOCK_BYTES // (4 * sum(sizes)) // 16 * 16)
    for begin in range(first, last, step):
        codes = item_codes[begin : min(begin + step, last)].long()
        parts = [
            book[own] @ book.T if known is None else known[own]
            for book, known, own in zip(books, cosines, codes.unbind(1), strict=True)
        ]
        _, near = topk_code_sums(torch.cat(parts, 1), item_codes, num_edges, codebook_sizes=sizes)
        own = torch.arange(begin, begin + len(codes)).unsqueeze(1)
        near[:, -1:] = torch.where((near == own).any(1, keepdim=True), near[:, -1:], own)
        out[begin - first : begin - first + len(codes)] = near
    return out

"""The packed offsets of a trie in plain torch: node n's children begin at ``bases[n >> 4] + deltas[n]``.

``children_of`` and ``fan_outs`` look at them before anything is indexed with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.protocols import TrieTensors

BLOCK_BITS = 4  # one base per 16 offsets
DELTA_BYTES = {torch.uint8: 1, torch.uint16: 2, torch.int32: 4}


def require_whole(name: str, values: Tensor, low: int, high: int) -> None:
    """Raises unless what will be an index is one: somebody may have written into a trie that had been checked."""
    if values.numel():
        least, most = (int(bound) for bound in values.aminmax())
        if least < low or most > high:
            raise InvalidValueError(
                f"Trie: {name} must be in [{low}, {high}] as it was checked, got {least if least < low else most}"
            )


def require_packed(name: str, bases: Any, deltas: Any, count: int | None = None) -> None:
    """Raises unless these are packed offsets (of ``count`` nodes): a field of a trie is easily replaced.

    Raises:
        InvalidTypeError: not tensors of their dtypes.
        InvalidValueError: of sizes that do not fit together.
    """
    require_tensors("Trie", None, **{f"{name}_bases": bases, f"{name}_deltas": deltas})
    if bases.dtype != torch.int32 or deltas.dtype not in DELTA_BYTES:
        raise InvalidTypeError(
            f"Trie: {name} offsets must be int32 and uint8, uint16 or int32, got {bases.dtype}, {deltas.dtype}"
        )
    nodes = deltas.numel() - 1 if count is None else count
    if bases.dim() != 1 or deltas.shape != (nodes + 1,) or bases.shape != ((nodes >> 4) + 1,):
        raise InvalidValueError(
            f"Trie: {name} offsets must be [{(nodes >> 4) + 1}] and [{nodes + 1}], "
            f"got {list(bases.shape)} and {list(deltas.shape)}"
        )


def children_of(
    name: str, bases: Tensor, deltas: Tensor, nodes: Tensor, total: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Where each node's children begin and end, and ``spans_of`` them."""
    require_packed(name, bases, deltas)
    require_whole(name, nodes, 0, deltas.numel() - 2)
    begin, end = unpack_offsets(bases, deltas, nodes), unpack_offsets(bases, deltas, nodes + 1)
    require_whole(f"{name} offsets", torch.cat([begin, end]), 0, total)
    require_whole(f"{name} offsets", end - begin, 0, total)
    return begin, end, spans_of(begin, end)


def spans_of(begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """For every index in any [begin, end): which span it belongs to, and the index."""
    lengths = end - begin
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    before = lengths.cumsum(0) - lengths
    return rows, torch.arange(len(rows), device=rows.device) + (begin - before)[rows]


def fan_out(trie: TrieTensors, level: int, nodes: Tensor) -> Tensor:
    """int64: how many children each of the nodes of a level has, or a few more in a trie that was changed."""
    if hasattr(trie, "own_fan_out"):
        found: Tensor = trie.own_fan_out(level, nodes)
        return found
    bases, deltas = trie.child_bases[level], trie.child_deltas[level]
    return unpack_offsets(bases, deltas, nodes + 1) - unpack_offsets(bases, deltas, nodes)


def fan_outs(bases: Tensor, deltas: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(first node, end, int64 edges of each) in pieces: all int64 offsets at once would outweigh the trie."""
    piece = 1 << 20
    for begin in range(0, len(deltas) - 1, piece):
        end = min(begin + piece, len(deltas) - 1)
        offsets = unpack_offsets(bases, deltas, torch.arange(begin, end + 1, device=deltas.device))
        yield begin, end, offsets[1:] - offsets[:-1]


def unpack_offsets(bases: Tensor, deltas: Tensor, at: Tensor | None = None) -> Tensor:
    """int64 offsets ``bases[n >> 4] + deltas[n]``, for all n or for int64 ``at``."""
    if at is None:
        at = torch.arange(len(deltas), device=deltas.device)
    return bases[at >> BLOCK_BITS].to(torch.int64) + widen(deltas, at)


def widen(values: Tensor, at: Tensor | None = None) -> Tensor:
    """int64 of ``values`` or ``values[at]``; by way of int16 where torch cannot index uint16."""
    if values.dtype == torch.uint16:
        narrow = values.view(torch.int16)
        return (narrow if at is None else narrow[at]).to(torch.int64) & 0xFFFF
    return (values if at is None else values[at]).to(torch.int64)


def row_range(trie: TrieTensors, level: int, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[low, high)`` below the nodes ``[first, end)`` of ``level`` (level L: the rows themselves)."""
    for below in range(level, len(trie.codebook_sizes)):
        first, end = (unpack_offsets(trie.child_bases[below], trie.child_deltas[below], n) for n in (first, end))
    return first, end

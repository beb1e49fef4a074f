"""Reading a trie's packed offsets in plain torch."""

from __future__ import annotations

from torch import Tensor

from genrec_fast.types import TrieTensors

__all__ = ["row_range", "unpack"]


def unpack(bases: Tensor, deltas: Tensor, index: Tensor) -> Tensor:
    """int64: ``bases[index // 16] + deltas[index]``."""
    return bases[index >> 4].long() + deltas[index].long()


def row_range(trie: TrieTensors, level: int, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[low, high)`` below the nodes ``[first, end)`` of ``level`` (level L: the rows themselves)."""
    for below in range(level, len(trie.codebook_sizes)):
        first, end = (unpack(trie.child_bases[below], trie.child_deltas[below], n) for n in (first, end))
    return first, end

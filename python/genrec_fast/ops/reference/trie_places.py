"""The twin of ``ops.trie_places``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops.trie_offsets import unpack_offsets, widen


def trie_places(
    tokens: Sequence[Tensor],
    child_bases: Sequence[Tensor],
    child_deltas: Sequence[Tensor],
    added_tokens: Sequence[Tensor],
    added_bases: Sequence[Tensor],
    added_deltas: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Level by level, each added node among the children that the base has at the same prefix."""
    device = tokens[0].device
    before = torch.zeros(1, dtype=torch.int64, device=device)
    shared = torch.ones(1, dtype=torch.bool, device=device)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for level, (large, small) in enumerate(zip(tokens, added_tokens, strict=True)):
        ends = unpack_offsets(added_bases[level], added_deltas[level])
        parent = torch.repeat_interleave(torch.arange(len(before), device=device), ends[1:] - ends[:-1])
        # A node that the base has not has no children there, but a place where they would begin.
        begin = unpack_offsets(child_bases[level], child_deltas[level], before[parent])
        end = unpack_offsets(child_bases[level], child_deltas[level], before[parent] + shared[parent])
        codes, last = widen(small), len(large) - 1
        low, high = begin, end
        for _ in range(int((end - begin).max()).bit_length()):
            middle = (low + high) >> 1
            less = widen(large, middle.clamp(max=last)) < codes
            low, high = torch.where(less & (low < high), middle + 1, low), torch.where(less, high, middle)
        before, shared = low, (low < end) & (widen(large, low.clamp(max=last)) == codes)
        found[0].append(before.to(torch.int32))
        found[1].append(shared)
    return found

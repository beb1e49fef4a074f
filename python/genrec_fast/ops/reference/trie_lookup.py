"""The twin of trie_lookup, and how packed offsets are read in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["trie_lookup", "unpack_offsets", "widen"]

BLOCK_BITS = 4


def trie_lookup(
    codes: Tensor,
    tokens: Sequence[Tensor],
    child_bases: Sequence[Tensor],
    child_deltas: Sequence[Tensor],
    codebook_sizes: Sequence[int],
) -> Tensor:
    """Searches (parent node, code) among all edges of a level, which stand in that order."""
    nodes = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
    for level in range(codes.shape[-1]):
        size = codebook_sizes[level]
        offsets = unpack_offsets(child_bases[level], child_deltas[level])
        parents = torch.repeat_interleave(
            torch.arange(len(offsets) - 1, device=codes.device), offsets[1:] - offsets[:-1]
        )
        edges = parents * size + widen(tokens[level])
        code = codes[..., level].to(torch.int64)
        wanted = torch.where((nodes >= 0) & (code >= 0) & (code < size), nodes * size + code, -1)
        found = torch.searchsorted(edges, wanted).clamp(max=len(edges) - 1)
        nodes = torch.where(edges[found] == wanted, found, -1)
    return nodes.to(torch.int32)


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

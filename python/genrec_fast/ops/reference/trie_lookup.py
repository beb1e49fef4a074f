"""The twin of ``ops.trie_lookup``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops.trie_offsets import unpack_offsets, widen


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

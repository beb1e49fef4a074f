"""The twin of trie_build: unique prefixes, level by level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops.trie_build import TrieParts, token_dtype
from genrec_fast.ops.trie_offsets import BLOCK_BITS


def trie_build(item_codes: Tensor, codebook_sizes: Sequence[int] | None = None) -> TrieParts:
    """``trie_build`` for int64 ``item_codes [N, L]`` that are known to be valid."""
    num_items, num_levels = item_codes.shape
    sizes = tuple(codebook_sizes or (int(largest) + 1 for largest in item_codes.amax(0)))
    rows, row_of_item = torch.unique(item_codes, dim=0, return_inverse=True)
    leaf_items = torch.sort(row_of_item, stable=True).indices

    tokens, counts = [], []
    parent = torch.zeros(len(rows), dtype=torch.int64)  # of each row's prefix, at the level below
    num_nodes = 1
    for level in range(num_levels):
        edges, parent_of_next = torch.unique(rows[:, : level + 1], dim=0, return_inverse=True)
        first_row = torch.searchsorted(parent_of_next, torch.arange(len(edges)))
        counts.append(torch.bincount(parent[first_row], minlength=num_nodes))
        tokens.append(edges[:, level].to(token_dtype(sizes[level])))
        parent, num_nodes = parent_of_next, len(edges)
    counts.append(torch.bincount(row_of_item))

    bases, deltas = zip(*(pack_offsets(c) for c in counts), strict=True)
    return TrieParts(
        sizes, num_items, tuple(tokens), bases[:-1], deltas[:-1], bases[-1], deltas[-1], leaf_items.to(torch.int32)
    )


def pack_offsets(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Bases int32 and the narrowest deltas of the offsets that int64 ``counts [n]`` give."""
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    bases = offsets[:: 1 << BLOCK_BITS]
    deltas = offsets - bases[torch.arange(len(offsets)) >> BLOCK_BITS]
    largest = int(deltas.max())
    narrowest = torch.uint8 if largest < 256 else torch.uint16 if largest < 65536 else torch.int32
    return bases.to(torch.int32), deltas.to(narrowest)

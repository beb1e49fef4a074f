"""How many semantic IDs are still free below the codes under a prefix."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.tokenizers.collisions.groups import group_items


def children(codes: Tensor, placed: Tensor, moving: Tensor, level: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (prefixes of ``level`` codes) of the moving items, and the items placed below them.

    Args:
        codes: int64 ``[N, L]``.
        placed: bool ``[N]``: items whose code is theirs.
        moving: int64 ``[m]``, ascending; none of them is placed.
        level: of the children.
        size: codes of that level.

    Returns:
        node of each moving item (int64 ``[m]``, dense from 0), and of each placed item below one of them its key
        node * size + code, ascending and not repeated, with the number of placed items of that key.
    """
    count = codes.shape[0]
    node = torch.zeros(count, dtype=torch.int64)
    if level:
        groups = group_items(codes[:, :level])
        node[groups.order] = groups.numbers(level)
    different, own = torch.unique(node[moving], return_inverse=True)
    dense = torch.full((int(node.max()) + 1,), -1, dtype=torch.int64)
    dense[different] = torch.arange(different.numel())
    below = dense[node]
    settled = placed & (below >= 0)
    keys, counts = torch.unique(below[settled] * size + codes[settled, level], return_counts=True)
    return own, keys, counts


def room(nodes: Tensor, keys: Tensor, counts: Tensor, size: int, below: int) -> Tensor:
    """int64 ``[n, size]``: how many semantic IDs are free below each child of ``nodes [n]``.

    Args:
        nodes: int64 ``[n]``, as ``children`` numbers them.
        keys: int64, as ``children`` gives them.
        counts: int64, as ``children`` gives them.
        size: children of a node.
        below: semantic IDs below one child.
    """
    table = torch.full((nodes.numel(), size), below, dtype=torch.int64)
    low, high = torch.searchsorted(keys, nodes * size), torch.searchsorted(keys, (nodes + 1) * size)
    lengths = high - low
    row = torch.repeat_interleave(torch.arange(nodes.numel()), lengths)
    place = torch.arange(row.numel()) - (lengths.cumsum(0) - lengths)[row] + low[row]
    table[row, keys[place] % size] -= counts[place]
    return table

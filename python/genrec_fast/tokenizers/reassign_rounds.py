"""Items choose among the codes that still have room under their prefix, one item of each prefix a round."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genrec_fast.tokenizers.groups import group_items

__all__ = ["children", "serve"]

_CELLS = 1 << 22  # of the table of room, nodes x codes, at a time
_UNLIMITED = 1 << 62


def children(codes: Tensor, placed: Tensor, moving: Tensor, level: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (prefixes of ``level`` codes) of the moving items, and who is placed below them.

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


def serve(
    codes: Tensor,
    placed: Tensor,
    moving: Tensor,
    residual: Tensor,
    books: list[Tensor],
    level: int,
    prices: Tensor | None,
) -> Tensor:
    """Each moving item's code of ``level``: the nearest with room below, items of one prefix in order of item id.

    Args:
        codes: int64 ``[N, L]``; of moving items the first ``level`` are read. Placed items have different codes.
        placed: bool ``[N]``.
        moving: int64 ``[m]``, ascending.
        residual: float32 ``[m, D]``.
        books: float32 ``[K_l, D]`` per level.
        level: where to choose.
        prices: float64 ``[nodes, K]`` to add to half the squared distance, nodes as ``children`` numbers them; or None.

    Returns:
        int64 ``[m]``; -1 where no code has room.
    """
    book = books[level]
    size = book.shape[0]
    room = min(math.prod(int(b.shape[0]) for b in books[level + 1 :]), _UNLIMITED)  # semantic IDs below one child
    own, keys, counts = children(codes, placed, moving, level, size)
    # equal vectors get equal distances whatever the order of sums: the lower code then wins
    vectors, which = torch.unique(book.double(), dim=0, return_inverse=True)
    if vectors.shape[0] == size:
        vectors, which = book.double(), None
    half = vectors.square().sum(1) / 2
    order = torch.argsort(own, stable=True)
    people = torch.bincount(own)
    begins = people.cumsum(0) - people
    choice = torch.full((moving.numel(),), -1, dtype=torch.int64)
    nodes = torch.argsort(people, descending=True, stable=True)  # nodes of like numbers of items share a table
    for part in nodes.split(max(1, _CELLS // size)):
        table = _room(part, keys, counts, size, room)
        total = table.double().sum(1)  # in doubles: room may be vast
        for turn in range(int(people[part[0]])):
            active = ((people[part] > turn) & (total > turn)).nonzero().squeeze(1)
            if active.numel() == 0:
                break
            item = order[begins[part[active]] + turn]
            scores = half - residual[item].double() @ vectors.T
            if which is not None:
                scores = scores[:, which]
            if prices is not None:
                scores += prices[part[active]]
            scores[table[active] <= 0] = math.inf
            best = scores.argmin(1)
            table[active, best] -= 1
            choice[item] = best
    return choice


def _room(part: Tensor, keys: Tensor, counts: Tensor, size: int, room: int) -> Tensor:
    """int64 ``[nodes, size]``: how many semantic IDs are free below each child."""
    table = torch.full((part.numel(), size), room, dtype=torch.int64)
    low = torch.searchsorted(keys, part * size)
    high = torch.searchsorted(keys, (part + 1) * size)
    lengths = high - low
    row = torch.repeat_interleave(torch.arange(part.numel()), lengths)
    place = torch.arange(row.numel()) - (lengths.cumsum(0) - lengths)[row] + low[row]
    table[row, keys[place] % size] -= counts[place]
    return table

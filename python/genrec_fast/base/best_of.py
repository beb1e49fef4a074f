"""The best of some items per user, given end to end."""

from __future__ import annotations

import torch
from torch import Tensor


def best_of(users: int, owner: Tensor, items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k best items of each user: higher score first, then lower item id.

    Args:
        users: B.
        owner: int64 ``[E]``: whose item each is.
        items: int64 ``[E]``, none twice per user.
        scores: float ``[E]``, none NaN.
        k: items per user.

    Returns:
        Items int64 ``[B, k]`` (-1 behind the last), scores ``[B, k]`` (-inf), and where among the E each of
        them stands, int64 ``[B, k]`` (-1).
    """
    # Three stable sorts: by item, then by score, then by user; the last key decides first.
    order = torch.argsort(items, stable=True)
    order = order[torch.argsort(scores[order], descending=True, stable=True)]
    order = order[torch.argsort(owner[order], stable=True)]
    owner = owner[order]
    counts = torch.bincount(owner, minlength=users)
    rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
    best = rank < k
    owner, rank, order = owner[best], rank[best], order[best]
    found = torch.full((users, k), -1, dtype=torch.int64, device=items.device)
    at, values = found.clone(), scores.new_full((users, k), -torch.inf)
    found[owner, rank], values[owner, rank], at[owner, rank] = items[order], scores[order], order
    return found, values, at

"""Categories in words as numbers per level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def categories_by_level(categories: Sequence[Sequence[str]] | None, depth: int = 8) -> Tensor | None:
    """int64 ``[N, levels]``: each item's category per level, numbered by first appearance, -1 where it has none.

    A number stands for a category and those above it: equal words below different ones are different categories.
    Levels at which all items that have a category have the same (the shop's own department) tell nothing and are left
    out.

    Args:
        categories: N lists of words, from the general to the special; ``None``: not known.
        depth: levels that are read at most.

    Returns:
        ``None`` where no level tells items apart.
    """
    columns = []
    for level in range(min(depth, max(map(len, categories or ()), default=0))):
        paths = [tuple(path[: level + 1]) if level < len(path) and path[level] else () for path in categories or ()]
        numbers = {path: number for number, path in enumerate(dict.fromkeys(filter(None, paths)))}
        if len(numbers) > 1:
            columns.append([numbers.get(path, -1) for path in paths])
    return torch.tensor(columns, dtype=torch.int64).T.contiguous() if columns else None

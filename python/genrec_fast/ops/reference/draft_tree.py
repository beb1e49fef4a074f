"""The twin of ``ops.draft_tree``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError


def row_of(row_parents: Tensor, row_codes: Tensor, above: Tensor, codes: Tensor) -> Tensor:
    """Int64 ``[B, n]``: the first row that wrote codes ``[B, n]`` behind rows ``[B, n]``; -1: none."""
    same = (row_parents.unsqueeze(1) == above.unsqueeze(2)) & (row_codes.unsqueeze(1) == codes.unsqueeze(2))
    same &= (row_codes >= 0).unsqueeze(1)
    found = same.byte().argmax(2) if same.shape[2] else torch.zeros_like(above)
    return torch.where(same.any(2), found, -1)


def draft_tree(
    row_parents: Tensor,
    row_codes: Tensor,
    above: Tensor,
    levels: Tensor,
    nodes: Sequence[Tensor],
    parents: Sequence[Tensor],
    codes: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``ops.draft_tree``; rows in full width, numbers of all levels side by side."""
    known, device = row_codes.shape[1], row_codes.device
    count = torch.zeros(len(levels), dtype=torch.int64, device=device)
    numbers: list[Tensor] = []
    rows: list[tuple[Tensor, ...]] = []
    for depth, (node, parent, code) in enumerate(zip(nodes, parents, codes, strict=True)):
        live = node >= 0
        place = parent.where(live, 0)
        _require(live & ((place < 0) | (place >= above.shape[1])), f"in [0, {above.shape[1]})", parent, depth)
        if above.shape[1]:
            behind = above.gather(1, place)
        else:
            behind = torch.zeros_like(parent)
        most = known + (count if depth else torch.zeros_like(count)).unsqueeze(1)
        _require(live & ((behind < 0) | (behind >= most)), "prefixes", parent, depth)
        if bool((live & (code < 0)).any()):
            raise InvalidValueError(f"draft_tree: codes must be at least 0, got one below in level {depth}")
        found = row_of(row_parents, row_codes, behind, code)
        new = live & (found < 0)
        number = torch.where(found >= 0, found, known + count.unsqueeze(1) + new.long().cumsum(1) - 1)
        numbers.append(number.where(live, -1))
        rows.append((new, node, behind, code, (levels + depth).unsqueeze(1).expand_as(parent)))
        above, count = numbers[-1], count + new.sum(1)
    empty = torch.zeros(len(levels), 0, dtype=torch.int64, device=device)
    if not rows:
        return empty.int(), empty, empty.int(), empty, count, empty
    new, node, behind, code, level = (torch.cat(parts, 1) for parts in zip(*rows, strict=True))
    order = (~new).byte().argsort(dim=1, stable=True)
    there = new.gather(1, order)

    def packed(part: Tensor, otherwise: int) -> Tensor:
        return part.gather(1, order).where(there, otherwise)

    return packed(node, -1), packed(behind, 0), packed(code, -1), packed(level, 0), count, torch.cat(numbers, 1)


def _require(wrong: Tensor, rule: str, parents: Tensor, depth: int) -> None:
    if bool(wrong.any()):
        user, place = wrong.nonzero()[0].tolist()
        got = parents[user, place].item()
        raise InvalidValueError(f"draft_tree: parents must be {rule}, got {got} for user {user} in level {depth}")

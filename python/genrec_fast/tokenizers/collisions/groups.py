"""Items in the order of their semantic IDs: groups of equal prefixes are then neighbours. One sort serves all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = (1 << 63) - 1


@dataclass(frozen=True, eq=False)
class Groups:
    """``group_items`` of N items; groups are numbered in lexicographic order of their codes."""

    order: Tensor
    """int64 ``[N]``: item ids in lexicographic order of codes, equal codes in order of item id"""
    begins: Tensor
    """bool ``[L, N]``: whether sorted place i has another prefix of l + 1 codes than place i - 1"""

    def starts(self, length: int) -> Tensor:
        """int64 ``[G]``: sorted places where groups of equal prefixes of ``length`` codes begin; of none: one group."""
        if length == 0:
            return torch.zeros(1, dtype=torch.int64)
        return self.begins[length - 1].nonzero().squeeze(1)

    def counts(self, length: int) -> Tensor:
        """int64 ``[G]``: items per group of equal prefixes of ``length`` codes."""
        return torch.diff(self.starts(length), append=torch.tensor([self.order.numel()]))

    def numbers(self, length: int) -> Tensor:
        """int64 ``[N]``: the group of each sorted place."""
        if length == 0:
            return torch.zeros_like(self.order)
        return self.begins[length - 1].cumsum(0) - 1

    def ranks(self, length: int) -> Tensor:
        """int64 ``[N]``: each sorted place's rank in its group, from 0; equal codes rank in order of item id."""
        return torch.arange(self.order.numel()) - self.starts(length)[self.numbers(length)]


def group_items(item_codes: Tensor) -> Groups:
    """Sorts items by their codes: integer ``[N, L]``, N and L at least 1, values from 0 (unchecked).

    Notes:
        Codes of a row are packed into one int64 where they fit; one stable sort per 63 bits: O(N log N).
    """
    codes = item_codes.detach().resolve_neg().to("cpu", torch.int64)
    count, levels = codes.shape
    key = torch.zeros(count, dtype=torch.int64)
    span = 1  # keys are in [0, span)
    for level in range(levels):
        size = int(codes[:, level].max()) + 1
        if span > _MOST // size:  # no room: the keys so far become their ranks among the different ones
            _, key = torch.unique(key, return_inverse=True)
            span = int(key.max()) + 1
        key = key * size + codes[:, level]
        span *= size
    order = torch.sort(key, stable=True).indices
    begins = torch.ones(levels, count, dtype=torch.bool)
    new = torch.zeros(max(count - 1, 0), dtype=torch.bool)
    for level in range(levels):
        column = codes[:, level][order]
        new |= column[1:] != column[:-1]
        begins[level, 1:] = new
    return Groups(order, begins)

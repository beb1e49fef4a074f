"""The items of a semantic ID, however many levels it has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged, offsets_of


class ItemsByCodes:
    """A look-up of whole semantic IDs.

    Args:
        item_codes: integers ``[N, L]``, on the CPU.
        sizes: L codebook sizes, which no code reaches.

    Notes:
        A sorted list of the different prefixes of each level: O(L N log N) once, L binary searches a question.
    """

    def __init__(self, item_codes: Tensor, sizes: Sequence[int]) -> None:
        self._sizes, self._prefixes = tuple(sizes), []
        numbers = torch.zeros(len(item_codes), dtype=torch.int64)
        for level, size in enumerate(self._sizes):
            prefixes, numbers = torch.unique(numbers * size + item_codes[:, level].long(), return_inverse=True)
            self._prefixes.append(prefixes)
        counts = torch.bincount(numbers, minlength=len(self._prefixes[-1]))
        self._items = Jagged(numbers.argsort(stable=True), offsets_of(counts))

    def of(self, codes: Tensor) -> Jagged:
        """int64 item ids, ascending, of M semantic IDs ``[M, L]``; a row without items where no item has the codes."""
        numbers = torch.zeros(len(codes), dtype=torch.int64)
        there = torch.ones(len(codes), dtype=torch.bool)
        for level, (size, prefixes) in enumerate(zip(self._sizes, self._prefixes, strict=True)):
            keys = numbers * size + codes[:, level].long()
            numbers = torch.searchsorted(prefixes, keys).clamp(max=len(prefixes) - 1)
            there &= (prefixes[numbers] == keys) & (codes[:, level] >= 0) & (codes[:, level] < size)
        rows = self._items.select(numbers[there])
        lengths = torch.zeros(len(codes), dtype=torch.int64)
        lengths[there] = rows.lengths
        return Jagged(rows.values, offsets_of(lengths))

"""Rows that see the prompt of their user and what they wrote themselves, in one attention."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.nn.branches import Seen
from genrec_fast.nn.packed import Packing
from genrec_fast.ops import T5Bias

KeysValues = tuple[Tensor, Tensor]


class Recorded:
    """Keeps the keys and values of a pass over whole rows (``nn.packed.Past``)."""

    def __init__(self) -> None:
        self.known: list[KeysValues] = []
        self.lengths = torch.zeros(0, dtype=torch.int64)

    def join_times(self, times: Tensor) -> Tensor:
        """Nothing is known before."""
        return times

    def join(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """Layers come in their order."""
        self.known.append((keys, values))
        return keys, values


class BehindPrompts:
    """What rows of a ``ModuleSession`` see: their user's prompt, then their own (``nn.packed.Past``).

    Args:
        rows: of one token each, with a past that joins their own keys and values.
        prompts: per layer keys and values ``[T, H, D]`` of the prompts.
        offsets: int64 ``[B + 1]`` of the T tokens.
        users: int64 ``[R]``: whose row each is.

    Attributes:
        offsets: int64 ``[R + 1]`` of what each row sees.
    """

    def __init__(self, rows: Packing, prompts: tuple[KeysValues, ...], offsets: Tensor, users: Tensor) -> None:
        assert rows.past is not None
        assert rows.kv_offsets is not None
        self._own, self._prompts, self._ends, self.lengths = rows.past, prompts, offsets, rows.past.lengths
        self._at = Jagged(torch.empty(int(offsets[-1]), 0, device=offsets.device), offsets).positions(users)
        own = rows.kv_offsets.diff()
        self.offsets = offsets_of(self._at.lengths + own)
        owner = torch.cat([self._at.row_index(), torch.arange(len(own), device=own.device).repeat_interleave(own)])
        self._order = owner.argsort(stable=True)

    def join_times(self, times: Tensor) -> Tensor:
        """Codes have no times."""
        return times

    def join(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """Prompt and own rows, end to end."""
        own = self._own.join(layer, keys, values)
        found = (torch.cat([old[self._at.values], new]) for old, new in zip(self._prompts[layer], own, strict=True))
        one, other = (part[self._order] for part in found)
        return one, other

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, alpha: float | None, bias: T5Bias | None
    ) -> Tensor | None:
        """See ``nn.branches.Attends``."""
        if bias is not None or not isinstance(self._own, Seen):
            return None
        return self._own.attend(
            layer, queries, keys, values, alpha=alpha, bias=None, prompts=self._prompts[layer], offsets=self._ends
        )

"""Rows of unequal length, end to end, and what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError


def offsets_of(lengths: Tensor) -> Tensor:
    """int64 ``[B + 1]`` from ``lengths [B]``."""
    offsets = torch.zeros(lengths.shape[0] + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def successors(column: Tensor, ends: Tensor, offsets: Tensor) -> Tensor:
    """Each position's successor in its row of ``column [E, ...]``; after the last, the row's entry of ``ends``."""
    out = torch.cat([column[1:], column[:1]])
    some = offsets[1:] > offsets[:-1]
    out[offsets[1:][some] - 1] = ends[some]
    return out


def spans(starts: Tensor, lengths: Tensor) -> Jagged:
    """Row b counts ``starts[b], starts[b] + 1, ...``, ``lengths[b]`` numbers; both int64 ``[B]``."""
    offsets = offsets_of(lengths)
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
    return Jagged(torch.arange(shift.shape[0], device=shift.device) + shift, offsets)


@dataclass(frozen=True)
class Jagged:
    """Rows of unequal length, end to end.

    Args:
        values: ``[E, ...]``, all rows concatenated.
        offsets: int64 ``[B + 1]``, from 0, non-decreasing, ending at E; row b is ``values[offsets[b]:offsets[b+1]]``.

    Raises:
        InvalidTypeError: offsets are not int64 of one dimension.
        InvalidValueError: offsets do not start at 0, decrease, or do not end at E; values without a dimension.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.offsets.dtype != torch.int64 or self.offsets.dim() != 1 or self.offsets.numel() == 0:
            raise InvalidTypeError(
                f"Jagged: offsets must be int64 [B + 1], got {self.offsets.dtype} {list(self.offsets.shape)}"
            )
        if self.values.dim() == 0:
            raise InvalidValueError("Jagged: values must have at least one dimension, got none")
        if self.offsets.device.type != "cpu":  # a check would wait for the device
            return
        few = self.offsets.tolist() if self.offsets.numel() < 1024 else [1]  # faster than five calls of torch
        if few[0] == 0 and few[-1] == self.values.shape[0] and few == sorted(few):
            return
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != self.values.shape[0]:
            raise InvalidValueError(
                f"Jagged: offsets must run from 0 to the number of values {self.values.shape[0]}, "
                f"got {int(self.offsets[0])} to {int(self.offsets[-1])}"
            )
        if (falls := (self.offsets[1:] < self.offsets[:-1]).nonzero()).numel():
            raise InvalidValueError(f"Jagged: offsets must not decrease, but do after row {int(falls[0])}")

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor] | Sequence[Sequence[int]], dtype: torch.dtype = torch.int64) -> Jagged:
        """One row per entry; empty rows stay."""
        tensors = [torch.as_tensor(row, dtype=dtype) for row in rows]
        lengths = torch.tensor([len(row) for row in tensors], dtype=torch.int64)
        values = torch.cat(tensors) if tensors else torch.empty(0, dtype=dtype)
        return cls.from_lengths(values, lengths)

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Jagged:
        """Offsets from int64 ``lengths [B]``."""
        return cls(values, offsets_of(lengths))

    @classmethod
    def cat(cls, parts: Sequence[Jagged]) -> Jagged:
        """All rows of the first part, then all of the second, ...; at least one part."""
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + part.values.shape[0])
        offsets = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        return cls(torch.cat([part.values for part in parts]), torch.cat([parts[0].offsets[:1], *offsets]))

    @property
    def lengths(self) -> Tensor:
        """int64 ``[B]``."""
        return self.offsets[1:] - self.offsets[:-1]

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def __getitem__(self, row: int) -> Tensor:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Jagged: row must be in [0, {len(self)}), got {row}")
        row %= len(self)
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def rows(self) -> list[Tensor]:
        """All rows, as views."""
        return list(torch.split(self.values, self.lengths.tolist()))

    def row_index(self) -> Tensor:
        """int64 ``[E]``: the row each value belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def positions(self, rows: Tensor | None = None) -> Jagged:
        """Where in ``values`` the values of some rows stand: int64 ``[m]`` row numbers; ``None``: all, in order."""
        if rows is None:
            return Jagged(torch.arange(self.values.shape[0], device=self.offsets.device), self.offsets)
        return spans(self.offsets[:-1][rows], self.lengths[rows])

    def last_positions(self, count: int) -> Jagged:
        """Where in ``values`` the last ``count`` values of each row stand."""
        lengths = self.lengths.clamp(max=count)
        return spans(self.offsets[1:] - lengths, lengths)

    def select(self, rows: Tensor) -> Jagged:
        """Some rows: int64 ``[m]`` row numbers, in any order."""
        at = self.positions(rows)
        return Jagged(self.values[at.values], at.offsets)

    def slice(self, begin: int, end: int) -> Jagged:
        """Rows ``begin`` to ``end``, the values as a view."""
        offsets = self.offsets[begin : end + 1]
        return Jagged(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])

    def last(self, count: int) -> Jagged:
        """The last ``count`` values of each row."""
        at = self.last_positions(count)
        return Jagged(self.values[at.values], at.offsets)

    def kept(self, keep: Tensor) -> Jagged:
        """The values where bool ``keep [E]`` is true, in rows that may be shorter, or empty."""
        if bool(keep.all()):
            return self
        return Jagged(self.values[keep], offsets_of(keep.long())[self.offsets])

    def followed_by(self, other: Jagged) -> Jagged:
        """Row b, then row b of the other."""
        lengths = self.lengths + other.lengths
        offsets = offsets_of(lengths)
        out = self.values.new_empty(int(offsets[-1]), *self.values.shape[1:])
        out[spans(offsets[:-1], self.lengths).values] = self.values
        out[spans(offsets[:-1] + self.lengths, other.lengths).values] = other.values
        return Jagged(out, offsets)

    def padded(self, fill: float = 0) -> Tensor:
        """``[B, S, ...]`` with S the longest row; row b is left-aligned, ``fill`` behind it."""
        longest = int(self.lengths.max()) if len(self) else 0
        out = self.values.new_full((len(self), longest, *self.values.shape[1:]), fill)
        if self.values.shape[0]:
            rows = self.row_index()
            columns = torch.arange(self.values.shape[0], device=rows.device) - self.offsets[rows]
            out[rows, columns] = self.values
        return out

    def to(self, device: torch.device | str) -> Jagged:
        return Jagged(self.values.to(device), self.offsets.to(device))

"""Tensors that belong together: selected, cut, joined and moved as one. The only place that does this by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged

Axis = Literal["user", "event", "candidate", "target", "filter", "made", "shared"]
T = TypeVar("T", bound="Columns")


def column(axis: Axis, *, default: Any = None, kw_only: bool = True) -> Any:
    """A field of ``Columns`` whose first dimension runs along an axis.

    Args:
        axis: "user": a row for each user, or a ``Jagged`` of one row each. "event", "candidate": a row for each value
            of the ``Jagged`` that ``spines`` names. "target": a row for each event whose ``targets`` entry is not -1,
            in their order, or a tuple of such. "filter": ``[N]`` or ``[1, N]`` for everybody, ``[B, N]`` for each user.
            "made": computed from the rest by whoever reads it; left out of any selection. "shared": one value for all.
        default: as in ``dataclasses.field``.
        kw_only: likewise.
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"axis": axis})


@dataclasses.dataclass(frozen=True)
class Columns:
    """A frozen dataclass of columns; ``None`` where one is not there.

    Attributes:
        spines: per axis of values the field whose rows they fill; the one of "event" says how many users there are.
    """

    spines: ClassVar[dict[str, str]] = {"event": "items", "candidate": "candidates"}

    def __len__(self) -> int:
        return len(getattr(self, self.spines["event"]))

    def to(self: T, device: torch.device | str) -> T:
        """All columns on a device."""
        found: dict[str, Any] = {}
        for name, _, value in self._columns():
            if isinstance(value, (Tensor, Jagged, Columns)):
                found[name] = value.to(device)
            elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
                found[name] = tuple(part.to(device) for part in value)
        return dataclasses.replace(self, **found)

    def select(self: T, users: Tensor) -> T:
        """Some users: int64 ``[m]`` positions, in any order."""
        spines = {axis: getattr(self, name, None) for axis, name in self.spines.items()}
        at = {axis: spine.positions(users).values for axis, spine in spines.items() if isinstance(spine, Jagged)}
        found: dict[str, Any] = {}
        for name, axis, value in self._columns():
            if isinstance(value, Jagged):
                found[name] = value.select(users)
            elif axis in at:
                found[name] = value[at[axis]]
            elif isinstance(value, Tensor) and (axis == "user" or (axis == "filter" and _of_each_user(value))):
                found[name] = value[users]
            elif axis == "target":
                found[name] = self._targets(value, at["event"])
            elif axis == "made":
                found[name] = None
        return dataclasses.replace(self, **found)

    def slice(self: T, begin: int, end: int, of: int | None = None) -> T:
        """Users ``begin`` to ``end``, or to the last one; ``of``: how many there are, for columns that cannot tell."""
        count = len(self) if of is None else of
        return self if begin == 0 and end >= count else self.select(torch.arange(begin, min(end, count)))

    def last(self: T, count: int) -> T:
        """The last ``count`` events of each user."""
        spine: Jagged = getattr(self, self.spines["event"])
        if spine.values.shape[0] <= count or int(spine.lengths.max()) <= count:
            return self
        at = spine.last_positions(count)
        found: dict[str, Any] = {}
        for name, axis, value in self._columns():
            if name == self.spines["event"]:
                found[name] = Jagged(value.values[at.values], at.offsets)
            elif axis == "event":
                found[name] = value[at.values]
            elif axis == "target":
                found[name] = self._targets(value, at.values)
            elif axis == "made":
                found[name] = None
        return dataclasses.replace(self, **found)

    @classmethod
    def of(cls: type[T], other: Columns, **own: Any) -> T:
        """The columns of another kind, all of which this kind has, and some of its ``own``; nothing is copied."""
        return cls(**{name: value for name, _, value in other._columns()}, **own)

    @classmethod
    def cat(cls: type[T], parts: Sequence[T]) -> T:
        """The users of the first part, then those of the second, ...: all with the same columns; at least one part."""
        if len(parts) == 1:
            return parts[0]
        found: dict[str, Any] = {}
        for name, axis, value in parts[0]._columns():
            values = [getattr(part, name) for part in parts]
            if axis == "made":
                found[name] = None
            elif isinstance(value, Jagged):
                found[name] = Jagged.cat(values)
            elif axis == "filter":
                shared = all(other is value for other in values)
                found[name] = value if shared else torch.cat([v if v.dim() == 2 else v[None] for v in values])
            elif isinstance(value, Tensor) and axis != "shared":
                found[name] = torch.cat(values)
            elif axis == "target":
                found[name] = tuple(map(torch.cat, zip(*values, strict=True)))
        return dataclasses.replace(parts[0], **found)

    def _columns(self) -> list[tuple[str, str, Any]]:
        """Name, axis and value of every column that is there."""
        fields = dataclasses.fields(self)
        named = [(field.name, field.metadata.get("axis", "shared"), getattr(self, field.name)) for field in fields]
        return [
            (name, axis if isinstance(value, (Tensor, Jagged, tuple, Columns)) else "shared", value)
            for name, axis, value in named
            if value is not None
        ]

    def _targets(self, value: Any, events: Tensor) -> Any:
        """The rows of a column of targets that belong to some events."""
        targets: Tensor = vars(self)["targets"]  # who has columns of targets has these
        asked = targets >= 0
        number = asked.cumsum(0) - 1
        at = number[events][asked[events]]
        return tuple(part[at] for part in value) if isinstance(value, tuple) else value[at]


def _of_each_user(mask: Tensor) -> bool:
    return mask.dim() == 2 and mask.shape[0] > 1

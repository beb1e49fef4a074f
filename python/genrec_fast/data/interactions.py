"""What a user of the library has: users, the items they touched in order, and what is known about the items."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.columns import Columns, column
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged, spans
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.catalog.stats import levels_of


def take(column: Tensor | None, at: Tensor) -> Tensor | None:
    """``column[at]``, where there is such a column."""
    return None if column is None else column[at]


def _span(times: Tensor) -> str:
    """From when to when: dates where the times are moments, else numbers."""
    if not times.numel():
        return "no times"
    low, high = (float(time) for time in torch.aminmax(times))
    if low < 1e8 or high > 1e11:  # not after 1973: seconds since something else
        return f"times {low:.10g} to {high:.10g}"
    first, last = (
        datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("%Y-%m-%d") for time in (low, high)
    )
    return f"{first} to {last}"


def _usual(counts: Tensor) -> str:
    """Least, middle and most."""
    if not counts.numel():
        return "0"
    least, most = (int(count) for count in torch.aminmax(counts))
    return f"{least:,}" if least == most else f"{least:,} to {most:,} (median {int(counts.median()):,})"


def _texts(texts: list[str] | None) -> str:
    if texts is None:
        return "none"
    missing = sum(not text for text in texts)
    first = next((text for text in texts if text), "")
    shown = first if len(first) <= 50 else f"{first[:47]}..."
    return f"such as {shown!r}" + (f"; {missing:,} items have none" if missing else "") if first else "all empty"


def _codes(codes: Tensor) -> str:
    sizes = (codes.amax(0) + 1).tolist()
    if math.prod(sizes) >= 2**63:  # no one number for each
        return levels_of(sizes)
    keys = torch.zeros(len(codes), dtype=torch.int64)
    for level, size in enumerate(sizes):
        keys = keys * size + codes[:, level]
    shared = len(codes) - len(torch.unique(keys))
    return levels_of(sizes) + (f"; {shared:,} beyond the first of theirs" if shared else "")


@dataclass(frozen=True)
class Interactions:
    """The events of all users, each user's oldest first.

    Inside the library an item is an id in ``[0, N)`` and a user a row; ``item_ids`` and ``user_ids`` are the names
    they had outside.

    Args:
        items: int64 values ``[E]``, item ids in ``[0, N)``; one row per user, rows may be empty.
        timestamps: float64 ``[E]``, aligned with ``items.values``, not decreasing within a user, in seconds (``load``
            turns a file's unit into them); ``None`` where the source has only an order.
        user_ids: B names.
        item_ids: N names; N counts items that nobody touched, too.
        actions: bool ``[E, A]``, aligned with ``items.values``: what each event was (liked, ...), or ``None``.
        action_names: A names.

    Raises:
        InvalidTypeError: items are not int64, or actions not bool.
        InvalidValueError: an item id outside ``[0, N)``, a count that does not fit, or times that run backwards or do
            not fit into 62 bits.
    """

    items: Jagged
    timestamps: Tensor | None
    user_ids: list[str]
    item_ids: list[str]
    actions: Tensor | None = None
    action_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = self.items.values
        if values.dtype != torch.int64 or values.dim() != 1:
            raise InvalidTypeError(f"Interactions: items must be int64 [E], got {values.dtype} {list(values.shape)}")
        if len(self.user_ids) != len(self.items):
            raise InvalidValueError(
                f"Interactions: user_ids must name {len(self.items)} users, got {len(self.user_ids)} names"
            )
        if values.numel():
            low, high = (int(v) for v in torch.aminmax(values))
            if low < 0 or high >= len(self.item_ids):
                raise InvalidValueError(
                    f"Interactions: items must be in [0, {len(self.item_ids)}), got {low if low < 0 else high}"
                )
        if self.timestamps is not None:
            if self.timestamps.shape != values.shape:
                raise InvalidValueError(
                    f"Interactions: timestamps must be {list(values.shape)}, got {list(self.timestamps.shape)}"
                )
            strange = ~(self.timestamps.abs() < 2**62)  # NaN, too
            if bool(strange.any()):
                at = int(strange.nonzero()[0])
                wrong = float(self.timestamps[at])
                raise InvalidValueError(f"Interactions: timestamps must be below 2^62, got {wrong} at event {at}")
            backwards = self.timestamps[1:] < self.timestamps[:-1]
            inner = self.items.offsets[1:-1]
            inner = inner[(inner > 0) & (inner < values.numel())]
            backwards[inner - 1] = False  # from one user to the next, time may jump back
            if bool(backwards.any()):
                at = int(backwards.nonzero()[0]) + 1
                raise InvalidValueError(
                    f"Interactions: timestamps must not decrease within a user, but do at event {at}"
                )
        if self.actions is not None and self.actions.dtype != torch.bool:
            raise InvalidTypeError(f"Interactions: actions must be bool [E, A], got {self.actions.dtype}")
        given = None if self.actions is None else list(self.actions.shape)
        if given != (None if self.actions is None else [values.numel(), len(self.action_names)]):
            raise InvalidValueError(
                f"Interactions: actions must be [{values.numel()}, {len(self.action_names)}], one column per name, "
                f"got {given}"
            )

    def __repr__(self) -> str:
        times = "" if self.timestamps is None else f", {_span(self.timestamps)}"
        actions = f", actions: {', '.join(self.action_names)}" if self.action_names else ""
        return (
            f"Interactions({self.num_users:,} users, {self.num_items:,} items, {self.num_events:,} events"
            f"{times}{actions})"
        )

    @property
    def num_users(self) -> int:
        return len(self.items)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        return self.items.values.numel()

    def cut(self, starts: Tensor, lengths: Tensor) -> Interactions:
        """The same users with the span ``[starts[b], starts[b] + lengths[b])`` of their events (absolute indices)."""
        at = spans(starts, lengths)
        return dataclasses.replace(
            self,
            items=Jagged(self.items.values[at.values], at.offsets),
            timestamps=take(self.timestamps, at.values),
            actions=take(self.actions, at.values),
        )

    def ask(self, at: Tensor, users: Tensor) -> Evaluation:
        """Questions whose answers are the events ``at`` (absolute indices) of ``users``, with all that was before."""
        starts = self.items.offsets[users]
        before = spans(starts, at - starts)
        return Evaluation(
            Jagged(self.items.values[before.values], before.offsets),
            self.items.values[at],
            users,
            take(self.timestamps, before.values),
            take(self.timestamps, at),
            take(self.actions, before.values),
            take(self.actions, at),
        )


@dataclass(frozen=True)
class Dataset:
    """Interactions, and what is known about the items.

    Args:
        name: for logs and pictures; the folder's name.
        interactions: all events.
        titles: N short texts a person can read, or ``None``.
        attributes: N further texts (brand, categories, ...), or ``None``.
        features: float32 ``[N, F]``, or ``None``.
        item_codes: int32 ``[N, L]``, published semantic IDs, or ``None``.
        categories: N lists of words, from the general to the special, or ``None``.
    """

    name: str
    interactions: Interactions
    titles: list[str] | None = None
    attributes: list[str] | None = None
    features: Tensor | None = None
    item_codes: Tensor | None = None
    categories: list[list[str]] | None = None

    def __post_init__(self) -> None:
        for name in ("titles", "attributes", "features", "item_codes", "categories"):
            value = getattr(self, name)
            if value is not None and len(value) != self.num_items:
                raise InvalidValueError(
                    f"Dataset: {name} must have one row for each of the {self.num_items} items, got {len(value)}"
                )

    def __repr__(self) -> str:
        events = self.interactions
        lengths, counts = events.items.lengths, torch.bincount(events.items.values, minlength=self.num_items)
        rows = [
            ("users", f"{self.num_users:,}, each {_usual(lengths)} events"),
            ("items", f"{self.num_items:,}, each in {_usual(counts)} events"),
            ("events", f"{events.num_events:,}" + (", in an order without times" if events.timestamps is None else "")),
        ]
        if events.timestamps is not None and events.num_events:
            rows.append(("times", _span(events.timestamps)))
        if events.action_names:
            rows.append(("actions", ", ".join(events.action_names)))
        for name, texts in (("titles", self.titles), ("attributes", self.attributes)):
            rows.append((name, _texts(texts)))
        if self.categories is not None:
            rows.append(("categories", _texts([" > ".join(path) for path in self.categories])))
        features = self.features
        rows.append(("features", "none" if features is None else f"{features.shape[1]} numbers an item"))
        rows.append(("semantic IDs", "none" if self.item_codes is None else _codes(self.item_codes)))
        return "\n".join([f"Dataset {self.name}", *(f"  {name:<13}{text}" for name, text in rows)])

    @property
    def num_items(self) -> int:
        return self.interactions.num_items

    @property
    def num_users(self) -> int:
        return self.interactions.num_users

    @property
    def catalog(self) -> Catalog:
        """What is known of the items; with the published semantic IDs, where there are some."""
        codes = self.item_codes
        return Catalog(
            item_ids=self.interactions.item_ids,
            titles=self.titles,
            texts=self.attributes,
            categories=self.categories,
            features=self.features,
            item_codes=codes,
            codebook_sizes=() if codes is None else tuple((codes.amax(0) + 1).tolist()),
        )

    def take_items(self, kept: Sequence[int], interactions: Interactions) -> Dataset:
        """The same knowledge about the items ``kept`` only (old ids, in their new order)."""
        index = torch.as_tensor(kept, dtype=torch.int64)
        return dataclasses.replace(
            self,
            interactions=interactions,
            titles=None if self.titles is None else [self.titles[i] for i in kept],
            attributes=None if self.attributes is None else [self.attributes[i] for i in kept],
            features=None if self.features is None else self.features[index],
            item_codes=None if self.item_codes is None else self.item_codes[index],
            categories=None if self.categories is None else [self.categories[i] for i in kept],
        )


@dataclass(frozen=True)
class Evaluation(Columns):
    """Questions with known answers: given this history, which item came next?

    Args:
        histories: int64 values, item ids, oldest first; no row is empty.
        targets: int64 ``[B]``, the item that followed.
        users: int64 ``[B]``, rows of the ``Interactions`` they were cut from.
        timestamps: float64 ``[E]``, of the histories' events, or ``None``.
        target_timestamps: float64 ``[B]``, when the questions are asked: the times of the targets; with ``timestamps``.
        actions: bool ``[E, A]``, what the histories' events were, or ``None``.
        target_actions: bool ``[B, A]``, what was done with the targets; with ``actions``.
    """

    spines: ClassVar[dict[str, str]] = {"event": "histories"}

    histories: Jagged = field(metadata={"axis": "user"})
    targets: Tensor = field(metadata={"axis": "user"})
    users: Tensor = field(metadata={"axis": "user"})
    timestamps: Tensor | None = column("event", kw_only=False)
    target_timestamps: Tensor | None = column("user", kw_only=False)
    actions: Tensor | None = column("event", kw_only=False)
    target_actions: Tensor | None = column("user", kw_only=False)

    def __post_init__(self) -> None:
        num_events = self.histories.values.shape[0]
        for name, rows in (
            ("timestamps", num_events),
            ("target_timestamps", len(self)),
            ("actions", num_events),
            ("target_actions", len(self)),
        ):
            column = getattr(self, name)
            if column is not None and column.shape[0] != rows:
                raise InvalidValueError(f"Evaluation: {name} must have {rows} rows, got {column.shape[0]}")
        if not len(self.histories) == self.targets.numel() == self.users.numel():
            raise InvalidValueError(
                f"Evaluation: histories, targets and users must be equally many, "
                f"got {len(self.histories)}, {self.targets.numel()} and {self.users.numel()}"
            )

    def __repr__(self) -> str:
        return f"Evaluation({len(self.histories):,} questions, histories of {_usual(self.histories.lengths)} events)"

    def head(self, count: int) -> Evaluation:
        """The first ``count`` questions."""
        return self.slice(0, count)


@dataclass(frozen=True)
class Splits:
    """What to learn from, what to choose a model by, and what to report."""

    train: Interactions
    validation: Evaluation
    test: Evaluation

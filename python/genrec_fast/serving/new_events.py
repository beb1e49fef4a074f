"""New events of users whose past is kept, as they came: checked, and without what the catalog does not have."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.items import Items
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import times_of_events
from genrec_fast.recipe.recommender import Recommender


@dataclass(frozen=True)
class NewEvents:
    """What users did since.

    Args:
        items: int64 ids (a language model's tokens) of B rows.
        times: int64 ``[E]``, whole seconds; ``None``: not given.
        asked: int64 ``[B]``, when the questions are asked; ``None``: not given.
        skipped: int64 ``[B]``: how many items of each row were left out.
    """

    items: Jagged
    times: Tensor | None
    asked: Tensor | None
    skipped: Tensor

    @classmethod
    def of(
        cls,
        model: Recommender,
        users: Sequence[Hashable],
        items: Any,
        timestamps: Any = None,
        target_timestamps: Any = None,
        *,
        skip: bool = False,
    ) -> NewEvents:
        """As a caller gave them; times are checked of a model that reads none, too.

        Args:
            model: reads the items.
            users: B names.
            items: B rows.
            timestamps: rows as long.
            target_timestamps: ``[B]``.
            skip: leave out what the catalog does not have, with its times.

        Raises:
            InvalidTypeError: items or times of the wrong kind.
            InvalidValueError: rows or times that do not fit, an item outside the catalog.
        """
        op = "UserCache"
        given = Items(op, model, skip).rows("items", items, model.num_inputs if model.reads_tokens else None)
        if len(given) != len(users):
            raise InvalidValueError(f"{op}: items must have one row for each of {len(users)} users, got {len(given)}")
        if timestamps is None and not given.values.numel():
            timestamps = Jagged(torch.zeros(0, dtype=torch.float64), given.offsets)  # the times of no event
        if timestamps is None and getattr(model.backbone, "reads_times", False):
            raise InvalidValueError(f"{op}: timestamps must be given, as the backbone reads times, got None")
        times, asked = times_of_events(op, given, timestamps, target_timestamps)
        known = given.values >= 0
        rows = given.kept(known) if skip else given
        return cls(rows, times[known] if skip and times is not None else times, asked, given.lengths - rows.lengths)

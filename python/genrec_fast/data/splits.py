"""Cutting interactions into training, validation and test, and thinning them out."""

from __future__ import annotations

import datetime
import math
from typing import Literal, overload

import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged, spans
from genrec_fast.base.times import looks_like_seconds
from genrec_fast.data.interactions import Dataset, Evaluation, Interactions, Splits, take


def leave_one_out(interactions: Interactions) -> Splits:
    """Every user's last item is the test, the second-last the validation, the rest the training data.

    The history of a test question is everything before its target, the validation item included. Users with fewer
    than three events cannot be asked without leaving them without a history: they stay whole in ``train`` and in
    neither evaluation.

    Notes:
        O(events), no loop over users. ``train`` keeps one row per user, so that ``users`` index it.
    """
    offsets, lengths = interactions.items.offsets, interactions.items.lengths
    asked = lengths >= 3
    train = interactions.cut(offsets[:-1], torch.where(asked, lengths - 2, lengths))
    users = asked.nonzero().squeeze(1)
    ends = offsets[1:][users]
    return Splits(train, interactions.ask(ends - 2, users), interactions.ask(ends - 1, users))


def time_split(
    interactions: Interactions,
    validation_from: float | str,
    test_from: float | str,
    *,
    targets: Literal["first", "every"] = "first",
) -> Splits:
    """Events before ``validation_from`` are training; those before ``test_from`` validation; the others test.

    Unlike leave-one-out, no model can learn from events that happened after the question.

    Args:
        interactions: with timestamps.
        validation_from: in the unit of the timestamps: seconds, after ``load``; or a text: a date or time such as
            "2014-06-01" (UTC where it has no zone), a share of the events such as "80%", or seconds.
        test_from: likewise; not before ``validation_from``.
        targets: "first": each user's first event in a period is the question (one row per user). "every": each event
            is one, its history everything before it (memory grows with the square of a user's activity).

    Returns:
        Splits. Events without any history before them are not asked. Users without training events keep an empty row.

    Raises:
        InvalidValueError: no timestamps, test_from before validation_from, limits in another unit than the times, or a
            text that is no limit.
    """
    times = interactions.timestamps
    if times is None:
        raise InvalidValueError("time_split: interactions must have timestamps, got None")
    validation_from = _limit("validation_from", validation_from, times)
    test_from = _limit("test_from", test_from, times)
    for name, limit in (("validation_from", validation_from), ("test_from", test_from)):
        large = math.isfinite(limit) and not looks_like_seconds(limit)
        if large and times.numel() and looks_like_seconds(latest := float(times.abs().max())):
            raise InvalidValueError(
                f"time_split: {name} must be in the unit of the timestamps, seconds up to {latest:.0f}, got {limit:.0f}"
            )
    if not validation_from <= test_from:
        raise InvalidValueError(f"time_split: test_from must be at least {validation_from}, got {test_from}")
    if targets not in ("first", "every"):
        raise InvalidValueError(f"time_split: targets must be 'first' or 'every', got {targets!r}")
    items, offsets = interactions.items, interactions.items.offsets
    rows = items.row_index()

    def before(limit: float) -> torch.Tensor:  # per user: index of the first event not before limit
        earlier = torch.zeros(len(items), dtype=torch.int64).index_add_(0, rows, (times < limit).to(torch.int64))
        return offsets[:-1] + earlier

    validation, test = before(validation_from), before(test_from)

    def ask(first: torch.Tensor, last: torch.Tensor) -> Evaluation:
        count = last - first if targets == "every" else (last > first).to(torch.int64)
        users = torch.repeat_interleave(torch.arange(len(items)), count)
        at = spans(first, count).values
        known = at > offsets[users]
        return interactions.ask(at[known], users[known])

    train = interactions.cut(offsets[:-1], validation - offsets[:-1])
    return Splits(train, ask(validation, test), ask(test, offsets[1:]))


def _limit(name: str, limit: float | str, times: torch.Tensor) -> float:
    """A limit as seconds. A share is the time of the event that stands there when all are in order."""
    if not isinstance(limit, str):
        return limit
    text = limit.strip()
    try:
        if text.endswith("%"):
            share = float(text[:-1])
            if 0 <= share <= 100 and times.numel():
                return float(times.sort().values[min(int(times.numel() * share / 100), times.numel() - 1)])
        elif text.replace(".", "", 1).isdigit():
            return float(text)
        else:
            moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 knows no Z
            return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)).timestamp()
    except (ValueError, OverflowError) as error:
        raise _no_limit(name, limit) from error
    raise _no_limit(name, limit)


def _no_limit(name: str, limit: str) -> InvalidValueError:
    return InvalidValueError(
        f"time_split: {name} must be a date or time such as 2014-06-01, a share of the events such as 80%, or seconds, "
        f"got {limit!r:.40}"
    )


@overload
def k_core(data: Interactions, k: int) -> Interactions: ...
@overload
def k_core(data: Dataset, k: int) -> Dataset: ...
def k_core(data: Interactions | Dataset, k: int) -> Interactions | Dataset:
    """Drops users and items with fewer than ``k`` events, again and again until all that remain have k.

    Items are renumbered without gaps and keep their order; a ``Dataset`` keeps what is known of the
    items that remain.

    Raises:
        InvalidValueError: k below 1, or nothing remains.
    """
    if k < 1:
        raise InvalidValueError(f"k_core: k must be at least 1, got {k}")
    whole = data.interactions if isinstance(data, Dataset) else data
    rows, values = whole.items.row_index(), whole.items.values
    kept = torch.arange(values.numel())
    while True:
        user_counts = torch.bincount(rows[kept], minlength=whole.num_users)
        item_counts = torch.bincount(values[kept], minlength=whole.num_items)
        good = (user_counts[rows[kept]] >= k) & (item_counts[values[kept]] >= k)
        if bool(good.all()):
            break
        kept = kept[good]
    if kept.numel() == 0:
        raise InvalidValueError(f"k_core: k must leave some events, got {k} which leaves none")
    users = (user_counts > 0).nonzero().squeeze(1)
    items = (item_counts > 0).nonzero().squeeze(1)
    renumbered = torch.full((whole.num_items,), -1).index_put_((items,), torch.arange(items.numel()))
    kept_items: list[int] = items.tolist()
    thinned = Interactions(
        Jagged.from_lengths(renumbered[values[kept]], user_counts[users]),
        take(whole.timestamps, kept),
        [whole.user_ids[u] for u in users.tolist()],
        [whole.item_ids[i] for i in kept_items],
        take(whole.actions, kept),
        whole.action_names,
    )
    return data.take_items(kept_items, thinned) if isinstance(data, Dataset) else thinned


def history_window(histories: Jagged, max_items: int) -> Jagged:
    """The last ``max_items`` items of every row.

    Raises:
        InvalidValueError: max_items below 1.
    """
    if max_items < 1:
        raise InvalidValueError(f"history_window: max_items must be at least 1, got {max_items}")
    return histories.last(max_items)


def truncate(evaluation: Evaluation, max_items: int) -> Evaluation:
    """The same questions with histories cut to their last ``max_items`` items."""
    if max_items < 1:
        raise InvalidValueError(f"truncate: max_items must be at least 1, got {max_items}")
    return evaluation.last(max_items)

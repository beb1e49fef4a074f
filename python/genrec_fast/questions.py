"""What a caller asks a recommender, checked: histories, and when their events were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genrec_fast.data import Evaluation
from genrec_fast.data.interactions import following, looks_like_seconds, span_indices, whole_times
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.recipe import Recipe
from genrec_fast.types import Batch, Jagged

__all__ = [
    "Asked",
    "check_count",
    "check_question",
    "joined",
    "marked",
    "question",
    "slice_rows",
    "to_actions",
    "to_histories",
    "to_rows",
    "to_times",
]


_DIGITS: dict[object, bool] = {"0": False, "1": True, 0: False, 1: True}  # false and true are 0 and 1 as keys


@dataclass(frozen=True)
class Asked:
    """What was asked, checked; the answers of ``histories`` are not known and not read."""

    histories: Evaluation
    allowed: Tensor | None
    exclude: Jagged | None


def check_count(name: str, value: object, op: str = "recommend") -> None:
    """Raises unless ``value`` is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{op}: {name} must be an int, got {value!r}")
    if value < 1:
        raise InvalidValueError(f"{op}: {name} must be at least 1, got {value}")


def check_question(
    num_items: int,
    histories: Jagged | Sequence[Sequence[int]],
    k: int,
    *,
    num_beams: int | None = None,
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
    exclude_seen: bool = False,
    users: Sequence[int] | Tensor | None = None,
    timestamps: Jagged | Sequence[Sequence[float]] | None = None,
    target_timestamps: Sequence[float] | Tensor | None = None,
    actions: Jagged | None = None,
) -> Asked:
    """The arguments of ``Recommender.recommend``, which describes them, checked; ``exclude_seen`` becomes ``exclude``.

    Raises:
        InvalidTypeError: histories or filters of the wrong kind.
        InvalidValueError: an empty history, an item outside the catalog, a filter that does not fit.
    """
    rows = to_histories(histories, num_items)
    check_count("k", k)
    if isinstance(num_beams, bool) or not (num_beams is None or isinstance(num_beams, int)):
        raise InvalidTypeError(f"recommend: num_beams must be an int, got {num_beams!r}")
    if allowed is not None and not isinstance(allowed, Tensor):
        raise InvalidTypeError(f"recommend: allowed must be a bool tensor, got {type(allowed).__name__}")
    if allowed is not None and allowed.dtype != torch.bool:
        raise InvalidTypeError(f"recommend: allowed must be bool, got {str(allowed.dtype).removeprefix('torch.')}")
    if exclude is not None and not (isinstance(exclude, Jagged) and exclude.values.dtype == torch.int64):
        what = exclude.values.dtype if isinstance(exclude, Jagged) else type(exclude).__name__
        raise InvalidTypeError(f"recommend: exclude must be int64 Jagged (Jagged.from_rows(lists)), got {what}")
    if allowed is not None and tuple(allowed.shape) not in ((num_items,), (len(rows), num_items)):
        raise InvalidValueError(
            f"recommend: allowed must be [{num_items}] or [{len(rows)}, {num_items}], got {list(allowed.shape)}"
        )
    if exclude is not None:
        if len(exclude) != len(rows):
            raise InvalidValueError(f"recommend: exclude must have {len(rows)} rows, got {len(exclude)}")
        to_rows("recommend", "exclude", exclude, num_items)  # -1 would be the last item
    try:
        who = torch.zeros(len(rows), dtype=torch.int64) if users is None else torch.as_tensor(users)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # words, lists in lists, more than 64 bits
        who = torch.zeros(0)
    if tuple(who.shape) != (len(rows),) or who.dtype != torch.int64 or bool((who < 0).any()):
        raise InvalidValueError(f"recommend: users must be int64 [{len(rows)}], each at least 0, got {users!r:.80}")
    if exclude_seen:
        exclude = rows if exclude is None else joined(exclude, rows)
    times, asked_at = to_times(rows, timestamps, target_timestamps)
    asked = Evaluation(rows, who, who, times, asked_at, to_actions(rows, actions))
    return Asked(asked, allowed, exclude)


def to_rows(op: str, name: str, rows: Jagged | Sequence[Sequence[int]], num_items: int) -> Jagged:
    """Checked rows of item ids, int64; rows may be empty, and there may be none.

    Raises:
        InvalidTypeError: not lists of whole numbers.
        InvalidValueError: an item outside ``[0, num_items)``.
    """
    if not isinstance(rows, Jagged):
        if not _are_rows_of_ids(rows):
            raise InvalidTypeError(
                f"{op}: {name} must be lists of item ids (whole numbers, one list per user), "
                f"got {rows!r:.80}; Recommender.numbers() turns names into ids"
            )
        try:
            rows = Jagged.from_rows(rows)
        except (OverflowError, RuntimeError, ValueError) as error:  # torch: any, for more than 64 bits
            raise InvalidValueError(f"{op}: {name} must hold item ids in [0, {num_items}), got {rows!r:.80}") from error
    values = rows.values
    if values.dtype != torch.int64 or values.dim() != 1:
        raise InvalidTypeError(f"{op}: {name} must be int64 [E], got {values.dtype} {list(values.shape)}")
    outside = (values < 0) | (values >= num_items)
    if bool(outside.any()):
        raise InvalidValueError(f"{op}: {name} must hold item ids in [0, {num_items}), got {int(values[outside][0])}")
    return rows


def to_histories(histories: Jagged | Sequence[Sequence[int]], num_items: int) -> Jagged:
    """Checked histories: at least one row, none of them empty; see ``to_rows``."""
    rows = to_rows("recommend", "histories", histories, num_items)
    if len(rows) == 0:
        raise InvalidValueError("recommend: histories must have at least one row, got none")
    empty = (rows.lengths == 0).nonzero()
    if empty.numel():
        raise InvalidValueError(f"recommend: histories must not be empty, but row {int(empty[0])} is")
    return rows


def to_times(
    histories: Jagged,
    timestamps: Jagged | Sequence[Sequence[float]] | None,
    target_timestamps: Sequence[float] | Tensor | None,
    op: str = "recommend",
) -> tuple[Tensor | None, Tensor | None]:
    """Checked times of the events, float64 ``[E]``, and of the questions, float64 ``[B]``; ``None`` where not given.

    Raises:
        InvalidTypeError: not lists of numbers.
        InvalidValueError: rows of other lengths than the histories', times that decrease, are not finite or are too
            large for seconds.
    """
    if timestamps is None:
        if target_timestamps is not None:
            raise InvalidValueError(f"{op}: target_timestamps must come with timestamps, got timestamps None")
        return None, None
    try:
        if not isinstance(timestamps, Jagged):
            timestamps = Jagged.from_rows(timestamps, torch.float64)  # type: ignore[arg-type]
        times = timestamps.values.to(torch.float64)
        at = None if target_timestamps is None else torch.as_tensor(target_timestamps, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{op}: timestamps must be lists of numbers, got {timestamps!r:.80}") from error
    if not torch.equal(timestamps.offsets, histories.offsets) or times.dim() != 1:
        raise InvalidValueError(f"{op}: timestamps must have rows as long as the histories', got other lengths")
    if at is not None and tuple(at.shape) != (len(histories),):
        raise InvalidValueError(
            f"{op}: target_timestamps must be [{len(histories)}], one per history, got {list(at.shape)}"
        )
    for name, value in (("timestamps", times), ("target_timestamps", at)):
        if value is None or not value.numel():
            continue
        largest = float(value.abs().max())
        if not largest < 2**62:
            raise InvalidValueError(f"{op}: {name} must be numbers below 2^62, got NaN or more")
        if not looks_like_seconds(largest):
            raise InvalidValueError(f"{op}: {name} must be in seconds, got {largest:.0f}; divide milliseconds by 1,000")
    rows = histories.row_index()
    if bool(((times[1:] < times[:-1]) & (rows[1:] == rows[:-1])).any()):
        raise InvalidValueError(f"{op}: timestamps must not decrease within a history")
    return times, at


def to_actions(histories: Jagged, actions: Jagged | None) -> Tensor | None:
    """Checked actions of the events, bool ``[E, A]``.

    Raises:
        InvalidTypeError: not bool Jagged.
        InvalidValueError: rows of other lengths than the histories'.
    """
    if actions is None:
        return None
    if not isinstance(actions, Jagged) or actions.values.dtype != torch.bool or actions.values.dim() != 2:
        what = f"{actions.values.dtype}" if isinstance(actions, Jagged) else type(actions).__name__
        raise InvalidTypeError(f"recommend: actions must be bool Jagged [E, A], got {what}")
    if not torch.equal(actions.offsets, histories.offsets):
        raise InvalidValueError("recommend: actions must have rows as long as the histories', got other lengths")
    return actions.values


def marked(recipe: Recipe, rows: Sequence[Sequence[object]] | None, lengths: Sequence[int]) -> Jagged | None:
    """Actions as ``to_actions`` wants them, from a mark for each event of each history.

    Args:
        recipe: which says the actions and their order.
        rows: per history one mark for each event: a word with a digit per action, such as "10", or as many booleans
            (0 and 1 will do); ``None``: not given.
        lengths: how many events each history has.

    Raises:
        InvalidValueError: a recipe that reads no actions, or does and gets none; another number of histories or
            events; no mark of that size.
    """
    names = getattr(recipe.objective, "actions", ())
    if rows is None:
        if getattr(recipe.layout, "actions", "none") != "none":
            raise InvalidValueError(
                f"recommend: actions must be given as {recipe.name} reads them ({', '.join(names)}), got None"
            )
        return None
    if not names:
        raise InvalidValueError(f"recommend: actions must not be given as {recipe.name} reads none")
    if len(rows) != len(lengths):
        raise InvalidValueError(
            f"recommend: actions must be a list for each of {len(lengths)} histories, got {len(rows)}"
        )
    marks: list[list[bool]] = []
    for row, events in zip(rows, lengths, strict=True):
        if len(row) != events:
            raise InvalidValueError(f"recommend: actions must be one word per event, {events} of them, got {len(row)}")
        for mark in row:
            digits = list(mark) if isinstance(mark, (str, list, tuple)) else []
            known = [_DIGITS[digit] for digit in digits if isinstance(digit, (str, int)) and digit in _DIGITS]
            if not len(known) == len(digits) == len(names):
                raise InvalidValueError(
                    f"recommend: actions must be words of {len(names)} digits 0 or 1 ({', '.join(names)}), "
                    f"got {mark!r:.40}"
                )
            marks.append(known)
    values = torch.tensor(marks, dtype=torch.bool).view(-1, len(names))
    return Jagged.from_lengths(values, torch.tensor(lengths, dtype=torch.int64))


def question(asked: Evaluation) -> Batch:
    """A batch without its answers; where it is not known when it is asked, at the last event."""
    times, now = whole_times(asked.timestamps), whole_times(asked.target_timestamps)
    if times is not None and now is None:
        now = times[asked.histories.offsets[1:] - 1]
    asked_at = following(times, now, asked.histories.offsets)
    return Batch(
        asked.histories, users=asked.users, timestamps=times, target_timestamps=asked_at, actions=asked.actions
    )


def _are_rows_of_ids(histories: object) -> bool:
    """One list, tensor or array of whole numbers per user."""
    if isinstance(histories, (str, bytes)) or not isinstance(histories, (Sequence, Tensor, np.ndarray)):
        return False
    for row in histories:
        if isinstance(row, (Tensor, np.ndarray)):
            if row.ndim != 1 or str(row.dtype).rpartition(".")[2].rstrip("0123456789") not in ("int", "uint"):
                return False
        # bool is an int to Python, and a float would be cut: both are mistakes here.
        elif (
            isinstance(row, (str, bytes))
            or not isinstance(row, Sequence)
            or any(isinstance(item, bool) or not isinstance(item, (int, np.integer)) for item in row)
        ):
            return False
    return True


def slice_rows(rows: Jagged, begin: int, end: int) -> Jagged:
    """Rows ``begin`` to ``end``."""
    offsets = rows.offsets[begin : end + 1]
    return Jagged(rows.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])


def joined(left: Jagged, right: Jagged) -> Jagged:
    """Row b of the left, then row b of the right."""
    lengths = left.lengths + right.lengths
    out = Jagged.from_lengths(left.values.new_empty(int(lengths.sum())), lengths)
    out.values[span_indices(out.offsets[:-1], left.lengths).values] = left.values
    out.values[span_indices(out.offsets[:-1] + left.lengths, right.lengths).values] = right.values
    return out

"""What a caller may ask of a recommender: each option described once and checked once, at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.batch import Question
from genrec_fast.base.checks import check_flag, shown, whole_number
from genrec_fast.base.columns import Columns, column
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged, successors
from genrec_fast.base.times import looks_like_seconds, whole_times

__all__ = ["Asked", "Options", "Query", "ask", "rows_of_items", "times_of_events"]


@dataclass(frozen=True, kw_only=True)
class Query(Columns):
    """How some users' items are searched; checked.

    Args:
        k: items for each user.
        num_beams: width of the search: for every level, one number per level, or int64 ``[B]``, one per user; ``None``:
            the decoder's own.
        exact: widen the search until the k items are proven to be the best of the catalog.
        allowed: bool ``[N]`` or ``[B, N]``: nothing else is recommended; ``None``: everything may be.
        exclude: int64 item ids of B rows that are not recommended; ``None``: none.
        seed: of decoders that draw; ``None``: their own.
    """

    spines: ClassVar[dict[str, str]] = {}

    k: int = column("shared", default=10)
    num_beams: int | tuple[int, ...] | Tensor | None = column("user")
    exact: bool = column("shared", default=False)
    allowed: Tensor | None = column("filter")
    exclude: Jagged | None = column("user")
    seed: int | None = column("shared")


class Options(TypedDict, total=False):
    """What may be asked beside histories and k. B users, N items; E events.

    ``num_beams``: width of the search; an int, a sequence of one per level, or int64 ``[B]``; default: the decoder's.
    ``exact``: widen the search until the k items are proven to be the best of the catalog.
    ``allowed``: bool ``[N]`` or ``[B, N]``: nothing else is recommended.
    ``exclude``: int64 Jagged of item ids per user that are not recommended.
    ``exclude_seen``: do not recommend what stands in the (whole) history.
    ``users``: who asks, by row of the training data, ``[B]``: for recipes with user tokens (``tiger``), which read
    everybody as user 0 without it.
    ``timestamps``: when each event of the histories was, not decreasing, in seconds: for backbones that read times; as
    many as the histories have.
    ``target_timestamps``: ``[B]``: when the recommendations are to be shown; default: at the last event.
    ``actions``: bool ``[E, A]`` Jagged, rows as long as the histories': what the users did with the items, in the order
    of the training data's actions: for recipes that read actions (``hstu_ranking``).
    ``seed``: of decoders that draw; default: their own.
    """

    num_beams: int | Sequence[int] | Tensor | None
    exact: bool
    allowed: Tensor | None
    exclude: Jagged | None
    exclude_seen: bool
    users: Sequence[int] | Tensor | None
    timestamps: Jagged | Sequence[Sequence[float]] | None
    target_timestamps: Sequence[float] | Tensor | None
    actions: Jagged | None
    seed: int | None


class Asked(Protocol):
    """What a question is checked against: a ``System``."""

    @property
    def num_items(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def may_be_empty(self) -> bool: ...


def ask(
    asked: Asked, histories: Jagged | Sequence[Sequence[int]], k: int, options: Options, op: str = "recommend"
) -> tuple[Question, Query]:
    """What ``Recommender.recommend`` was given, checked; ``exclude_seen`` becomes ``exclude``.

    Raises:
        InvalidTypeError: an option that there is not; histories or filters of the wrong kind.
        InvalidValueError: an empty history, an item outside the catalog, a filter that does not fit.
    """
    for name in options:
        if name not in Options.__annotations__:
            raise InvalidTypeError(f"{op}: options are {', '.join(Options.__annotations__)}, got {name}")
    num_items = asked.num_items
    rows = rows_of_items(op, "histories", histories, asked.num_inputs)
    if len(rows) == 0:
        raise InvalidValueError(f"{op}: histories must have at least one row, got none")
    empty = (rows.lengths == 0).nonzero()
    if empty.numel() and not asked.may_be_empty:
        raise InvalidValueError(f"{op}: histories must not be empty, but row {int(empty[0])} is")
    exclude = _excluded(op, options.get("exclude"), rows, num_items)
    if check_flag(op, "exclude_seen", options.get("exclude_seen", False)):
        rows_of_items(op, "histories", rows, num_items)  # of whatever they hold, it must be items
        exclude = rows if exclude is None else exclude.followed_by(rows)
    seed = options.get("seed")
    query = Query(
        k=whole_number(op, "k", k),
        num_beams=_widths(op, options.get("num_beams"), len(rows)),
        exact=check_flag(op, "exact", options.get("exact", False)),
        allowed=_allowed(op, options.get("allowed"), len(rows), num_items),
        exclude=exclude,
        seed=None if seed is None else whole_number(op, "seed", seed, 0),
    )
    times, now = times_of_events(op, rows, options.get("timestamps"), options.get("target_timestamps"))
    if times is not None and now is None:
        now = times[rows.offsets[1:] - 1]
    question = Question(
        rows,
        users=_users(op, options.get("users"), len(rows)),
        timestamps=times,
        target_timestamps=None if times is None or now is None else successors(times, now, rows.offsets),
        actions=_actions(op, options.get("actions"), rows),
    )
    return question, query


def rows_of_items(op: str, name: str, rows: Any, num_items: int) -> Jagged:
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
    checked: Jagged = rows
    return checked


def times_of_events(
    op: str, rows: Jagged, timestamps: Any, target_timestamps: Any
) -> tuple[Tensor | None, Tensor | None]:
    """Checked times in whole seconds: of events, int64 ``[E]``, and of questions, int64 ``[B]``; ``None``: not given.

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
            timestamps = Jagged.from_rows(timestamps, torch.float64)
        times = timestamps.values.to(torch.float64)
        at = None if target_timestamps is None else torch.as_tensor(target_timestamps, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{op}: timestamps must be lists of numbers, got {timestamps!r:.80}") from error
    if not torch.equal(timestamps.offsets, rows.offsets) or times.dim() != 1:
        raise InvalidValueError(f"{op}: timestamps must have rows as long as the histories', got other lengths")
    if at is not None and tuple(at.shape) != (len(rows),):
        raise InvalidValueError(f"{op}: target_timestamps must be [{len(rows)}], one per history, got {list(at.shape)}")
    for name, value in (("timestamps", times), ("target_timestamps", at)):
        if value is None or not value.numel():
            continue
        largest = float(value.abs().max())
        if not largest < 2**62:
            raise InvalidValueError(f"{op}: {name} must be numbers below 2^62, got NaN or more")
        if not looks_like_seconds(largest):
            raise InvalidValueError(f"{op}: {name} must be in seconds, got {largest:.0f}; divide milliseconds by 1,000")
    index = rows.row_index()
    if bool(((times[1:] < times[:-1]) & (index[1:] == index[:-1])).any()):
        raise InvalidValueError(f"{op}: timestamps must not decrease within a history")
    whole = whole_times(times)
    return whole, None if at is None else whole_times(at)


def _widths(op: str, num_beams: Any, users: int) -> int | tuple[int, ...] | Tensor | None:
    if num_beams is None:
        return None
    if isinstance(num_beams, Tensor) and num_beams.dim() == 1:
        if num_beams.dtype != torch.int64 or num_beams.shape[0] != users or bool((num_beams < 1).any()):
            raise InvalidValueError(f"{op}: num_beams must be int64 [{users}], each at least 1, got {shown(num_beams)}")
        return num_beams
    if isinstance(num_beams, (list, tuple)):
        return tuple(whole_number(op, "num_beams", width) for width in num_beams)
    return whole_number(op, "num_beams", num_beams)


def _allowed(op: str, allowed: Any, users: int, num_items: int) -> Tensor | None:
    if allowed is None:
        return None
    if not isinstance(allowed, Tensor):
        raise InvalidTypeError(f"{op}: allowed must be a bool tensor, got {type(allowed).__name__}")
    if allowed.dtype != torch.bool:
        raise InvalidTypeError(f"{op}: allowed must be bool, got {str(allowed.dtype).removeprefix('torch.')}")
    if tuple(allowed.shape) not in ((num_items,), (users, num_items)):
        raise InvalidValueError(
            f"{op}: allowed must be [{num_items}] or [{users}, {num_items}], got {list(allowed.shape)}"
        )
    return allowed


def _excluded(op: str, exclude: Jagged | None, rows: Jagged, num_items: int) -> Jagged | None:
    if exclude is None:
        return None
    if not (isinstance(exclude, Jagged) and exclude.values.dtype == torch.int64):
        what = exclude.values.dtype if isinstance(exclude, Jagged) else type(exclude).__name__
        raise InvalidTypeError(f"{op}: exclude must be int64 Jagged (Jagged.from_rows(lists)), got {what}")
    if len(exclude) != len(rows):
        raise InvalidValueError(f"{op}: exclude must have {len(rows)} rows, got {len(exclude)}")
    rows_of_items(op, "exclude", exclude, num_items)  # -1 would be the last item
    return exclude


def _users(op: str, users: Any, count: int) -> Tensor:
    try:
        who = torch.zeros(count, dtype=torch.int64) if users is None else torch.as_tensor(users)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # words, lists in lists, more than 64 bits
        who = torch.zeros(0)
    if tuple(who.shape) != (count,) or who.dtype != torch.int64 or bool((who < 0).any()):
        raise InvalidValueError(f"{op}: users must be int64 [{count}], each at least 0, got {users!r:.80}")
    return who


def _actions(op: str, actions: Any, rows: Jagged) -> Tensor | None:
    if actions is None:
        return None
    if not isinstance(actions, Jagged) or actions.values.dtype != torch.bool or actions.values.dim() != 2:
        what = f"{actions.values.dtype}" if isinstance(actions, Jagged) else type(actions).__name__
        raise InvalidTypeError(f"{op}: actions must be bool Jagged [E, A], got {what}")
    if not torch.equal(actions.offsets, rows.offsets):
        raise InvalidValueError(f"{op}: actions must have rows as long as the histories', got other lengths")
    return actions.values


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

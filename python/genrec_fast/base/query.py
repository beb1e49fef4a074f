"""What a caller may ask of a recommender: each option described once and checked once, at the door."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypedDict

import torch
from torch import Tensor

from genrec_fast.base.batch import Question
from genrec_fast.base.checks import MOST, check_flag, choice, shown, whole_number
from genrec_fast.base.columns import Columns, column
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.items import ItemNames, Items, mask_of
from genrec_fast.base.jagged import Jagged, successors
from genrec_fast.base.times import looks_like_seconds, whole_times


@dataclass(frozen=True, kw_only=True)
class Query(Columns):
    """How some users' items are searched; checked.

    Args:
        k: items for each user.
        num_beams: width of the search: for every level, one number per level, or int64 ``[B]``, one per user; ``None``:
            the decoder's own.
        exact: widen the search until the k items are proven to be the best of the catalog.
        allowed: bool ``[N]`` or ``[B, N]``: nothing else is recommended; ``None``: everything may be.
        candidates: int64 item ids of B rows: nothing else is recommended; ``None``: everything may be. Decoders do not
            read it: ``filtered`` makes it a part of ``allowed`` for as many users as are searched at once.
        exclude: int64 item ids of B rows that are not recommended; ``None``: none.
        seed: of decoders that draw; ``None``: their own.
        max_num_beams: how wide ``exact`` may make a search; ``None``: as wide as the catalog.
    """

    spines: ClassVar[dict[str, str]] = {}

    k: int = column("shared", default=10)
    num_beams: int | tuple[int, ...] | Tensor | None = column("user")
    exact: bool = column("shared", default=False)
    allowed: Tensor | None = column("filter")
    candidates: Jagged | None = column("user")
    exclude: Jagged | None = column("user")
    seed: int | None = column("shared")
    max_num_beams: int | None = column("shared")

    def filtered(self, num_items: int) -> Query:
        """The same with ``candidates`` in ``allowed``, bool ``[B, N]``."""
        if self.candidates is None:
            return self
        allowed = mask_of(self.candidates, num_items)
        if self.allowed is not None:
            allowed &= self.allowed.to(allowed.device)
        return dataclasses.replace(self, candidates=None, allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one question may ask for, whatever road it takes: ``ask`` checks it.

    Args:
        max_k: items for each user.
        max_num_beams: width of a search, at every level and for every user; ``exact`` widens no further, and says by
            the answer's ``exact`` whether that was enough.

    Raises:
        InvalidTypeError: no whole number.
        InvalidValueError: below 1.
    """

    max_k: int = MOST
    max_num_beams: int = MOST

    def __post_init__(self) -> None:
        whole_number("Limits", "max_k", self.max_k)
        whole_number("Limits", "max_num_beams", self.max_num_beams)


NO_LIMITS = Limits()
_MORE_THAN_ITEMS = 10_000  # k may be beyond a small catalog; what no catalog fills would fill the memory


class SearchOptions(TypedDict, total=False):
    """What may be asked of whoever the users are: a part of ``Options``, see there."""

    num_beams: int | Sequence[int] | Tensor | None
    exact: bool
    allowed: Tensor | Jagged | Iterable[Any] | None
    candidates: Tensor | Jagged | Iterable[Any] | None
    exclude: Tensor | Jagged | Iterable[Any] | None
    exclude_seen: bool
    unknown: Literal["refuse", "skip"]
    seed: int | None


class Options(SearchOptions, total=False):
    """What may be asked beside histories and k. B users, N items; E events.

    An item is its name (a text) or its id (a whole number).

    ``num_beams``: width of the search; an int, a sequence of one per level, or int64 ``[B]``; default: the decoder's.
    ``exact``: widen the search until the k items are proven to be the best of the catalog.
    ``allowed``: nothing else is recommended: items for everybody (a list, set or array), as many such lists as users,
    one for each, or a mask, bool ``[N]`` or ``[B, N]``.
    ``candidates``: what is to be ranked, in the same forms; with ``allowed``, what is in both.
    ``exclude``: what is not recommended, in the same forms.
    ``exclude_seen``: do not recommend what stands in the (whole) history.
    ``unknown``: items that the catalog does not have are an error ("refuse", the default), or left out wherever they
    stand ("skip"): of a history with their times and actions; ``Ranked.skipped`` counts those.
    ``users``: who asks, by row of the training data, ``[B]``: for recipes with user tokens (``tiger``), which read
    everybody as user 0 without it.
    ``timestamps``: when each event of the histories was, not decreasing, in seconds: for backbones that read times; as
    many as the histories have.
    ``target_timestamps``: ``[B]``: when the recommendations are to be shown; default: at the last event.
    ``actions``: bool ``[E, A]`` Jagged, rows as long as the histories': what the users did with the items, in the order
    of the training data's actions: for recipes that read actions (``hstu_ranking``).
    ``seed``: of decoders that draw; default: their own.
    """

    users: Sequence[int] | Tensor | None
    timestamps: Jagged | Sequence[Sequence[float]] | None
    target_timestamps: Sequence[float] | Tensor | None
    actions: Jagged | None


class Asked(ItemNames, Protocol):
    """What a question is checked against: a ``System``."""

    @property
    def reads_tokens(self) -> bool: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def may_be_empty(self) -> bool: ...
    @property
    def knows_popular(self) -> bool: ...


def ask(
    asked: Asked,
    histories: Jagged | Iterable[Iterable[int | str]],
    k: int,
    options: Options,
    op: str = "recommend",
    limits: Limits = NO_LIMITS,
    *,
    least: int = 1,
) -> tuple[Question, Query]:
    """What ``Recommender.recommend`` was given, at least so many histories, checked.

    ``exclude_seen`` becomes ``exclude``.

    Raises:
        InvalidTypeError: an option that there is not; histories or filters of the wrong kind.
        InvalidValueError: an empty history that nothing can be said about, an item that the catalog does not have, a
            filter that does not fit, more than ``limits`` allow.
    """
    check_options(op, options, Options)
    items = Items(op, asked, skips(op, options.get("unknown", "refuse")))
    given = items.rows("histories", histories, asked.num_inputs if asked.reads_tokens else None)
    if len(given) < least:
        raise InvalidValueError(f"{op}: histories must have at least one row, got none")
    times, now = times_of_events(op, given, options.get("timestamps"), options.get("target_timestamps"))
    actions = _actions(op, options.get("actions"), given)
    rows = given
    if items.skip:
        known = given.values >= 0
        rows = given.kept(known)
        times, actions = (None if part is None else part[known] for part in (times, actions))
    _check_empty(op, asked, rows, given)
    query = checked_query(items, len(rows), k, options, limits)
    if check_flag(op, "exclude_seen", options.get("exclude_seen", False)):
        if asked.reads_tokens:
            raise seen_are_tokens(op)
        seen = rows if query.exclude is None else query.exclude.followed_by(rows)
        query = dataclasses.replace(query, exclude=seen)
    if times is None and not rows.values.numel():
        times = rows.values  # the times of no event
    if times is not None and now is None:
        now, some = rows.offsets.new_zeros(len(rows)), rows.lengths > 0
        now[some] = times[rows.offsets[1:][some] - 1]
    question = Question(
        rows,
        users=_users(op, options.get("users"), len(rows)),
        timestamps=times,
        target_timestamps=None if times is None or now is None else successors(times, now, rows.offsets),
        actions=actions,
        skipped=given.lengths - rows.lengths,
    )
    return question, query


def check_options(op: str, options: Mapping[str, Any], known: Any) -> None:
    """Raises ``InvalidTypeError`` for an option that ``known``, ``Options`` or a part of it, does not have."""
    for name in options:
        if name not in known.__annotations__:
            raise InvalidTypeError(f"{op}: options are {', '.join(known.__annotations__)}, got {name}")


def seen_are_tokens(op: str) -> InvalidValueError:
    """The error for ``exclude_seen`` where histories are no items."""
    return InvalidValueError(
        f"{op}: exclude_seen must be False for a model that reads tokens: give the items as exclude"
    )


def checked_query(items: Items, users: int, k: int, options: SearchOptions, limits: Limits = NO_LIMITS) -> Query:
    """How so many users' items are searched; ``exclude_seen`` is not looked at.

    Raises:
        InvalidTypeError: options of the wrong kind.
        InvalidValueError: a filter that does not fit, more than ``limits`` allow.
    """
    op, seed = items.op, options.get("seed")
    allowed, candidates = only_these(items, options, users)
    return Query(
        k=whole_number(op, "k", k, most=min(limits.max_k, max(items.names.num_items, _MORE_THAN_ITEMS))),
        num_beams=_widths(op, options.get("num_beams"), users, limits.max_num_beams),
        exact=check_flag(op, "exact", options.get("exact", False)),
        allowed=allowed,
        candidates=candidates,
        exclude=excluded_rows(items, options.get("exclude"), users),
        seed=None if seed is None else whole_number(op, "seed", seed, 0),
        max_num_beams=None if limits.max_num_beams == MOST else limits.max_num_beams,
    )


def skips(op: str, unknown: Any) -> bool:
    """Whether the option ``unknown`` says that items are skipped.

    Raises:
        InvalidValueError: it is neither "refuse" nor "skip".
    """
    return choice(op, "unknown", unknown, ("refuse", "skip")) == "skip"


def _check_empty(op: str, asked: Asked, rows: Jagged, given: Jagged) -> None:
    empty = (rows.lengths == 0).nonzero()
    if empty.numel() and not asked.may_be_empty and not asked.knows_popular:
        row = int(empty[0])
        how = ", once unknown items are skipped" if int(given.lengths[row]) else ""
        raise InvalidValueError(
            f"{op}: histories must not be empty, but row {row} is{how}: this model learned no start of histories, "
            "and its catalog has no counts of items (Catalog.counts) to tell the popular ones by"
        )


def only_these(items: Items, options: SearchOptions, users: int) -> tuple[Tensor | None, Jagged | None]:
    """What ``allowed`` and ``candidates`` leave: bool ``[N]`` or ``[B, N]``, and int64 ids of B rows; both hold."""
    mask: Tensor | None = None
    rows: Jagged | None = None
    for name, given in (("allowed", options.get("allowed")), ("candidates", options.get("candidates"))):
        if given is None:
            continue
        chosen = items.chosen(name, given, users)
        if isinstance(chosen, Jagged) and rows is None:
            rows = chosen
        else:
            other = mask_of(chosen, items.names.num_items)
            mask = other if mask is None else mask & other
    return mask, rows


def excluded_rows(items: Items, exclude: Any, users: int) -> Jagged | None:
    """``exclude`` as int64 ids of B rows."""
    if exclude is None:
        return None
    chosen = items.chosen("exclude", exclude, users)
    if isinstance(chosen, Jagged):
        return chosen
    if chosen.dim() == 2:
        return Jagged.from_lengths(chosen.nonzero()[:, 1], chosen.sum(1))
    ids = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
    return Jagged.from_lengths(ids.repeat(users), torch.full((users,), ids.shape[0], dtype=torch.int64))


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


def _widths(op: str, num_beams: Any, users: int, most: int) -> int | tuple[int, ...] | Tensor | None:
    if num_beams is None:
        return None
    if isinstance(num_beams, Tensor) and num_beams.dim() == 1:
        if num_beams.dtype != torch.int64 or num_beams.shape[0] != users or bool((num_beams < 1).any()):
            raise InvalidValueError(f"{op}: num_beams must be int64 [{users}], each at least 1, got {shown(num_beams)}")
        if users:
            whole_number(op, "num_beams", int(num_beams.max()), most=most)
        return num_beams
    if isinstance(num_beams, (list, tuple)):
        if not num_beams:
            raise InvalidValueError(f"{op}: num_beams must have a number for each level, got none")
        return tuple(whole_number(op, "num_beams", width, most=most) for width in num_beams)
    return whole_number(op, "num_beams", num_beams, most=most)


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

"""Keys and values of users, kept between questions: a new event is read without the history before it."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.items import Items
from genrec_fast.base.jagged import Jagged, successors
from genrec_fast.base.protocols import Resumable
from genrec_fast.base.query import Query, times_of_events
from genrec_fast.decoders.retrieve import Retrieve
from genrec_fast.nn.pages import PagedPast, PagePool
from genrec_fast.nn.snapshot import Snapshot
from genrec_fast.recipe.recommender import Recommender

__all__ = ["UserCache"]


@dataclass
class _Entry:
    """One user: the last events (at most max_items), what of them is in the pages, and the state after them."""

    items: Tensor
    times: Tensor | None
    pages: list[int] = field(default_factory=list)
    known: int = 0  # tokens in the pages
    state: Tensor | None = None


class UserCache:
    """Keys and values of users' histories, kept between questions, in pages of one pool.

    ``extend`` reads new events and gives the states after them, equal (up to rounding) to reading each user's last
    ``max_items`` events anew.

    What is kept, exactly: the keys and values of an event in every layer once nothing can change them any more. They
    depend on the events before it and on its query time. A backbone whose bias reads times asks position i at the time
    of event i + 1, so its last event is open until the next one comes: it is kept as an item and a time only, and read
    again (one token) with every question, at the question's time. Other backbones have no open event. Inputs counted
    from the end of a history change with every event: such settings are refused.

    A history beyond ``max_items`` loses its oldest event with every new one, so all its positions move: it is read
    anew each time.

    Args:
        model: its backbone must be a ``Resumable`` (``HSTU``, ``Causal``).
        num_pages: pages in the pool.
        page_size: events on a page.
        evict: where pages run out, forget the users that were asked for longest ago; else that is an error.
        frozen: the weights and item tables will not change, or ``clear`` is called where they do. Else every call reads
            them once, at the speed of memory, and reads all histories anew when anything has changed.

    Raises:
        UnsupportedError: a backbone that cannot go on, or not with its settings; weights that are not on the CPU, and
            not frozen.

    Notes:
        Memory: all pages at once, ``4 num_pages page_size sum over layers of H (Dqk + Dv)`` bytes; per user its item
        ids and times. One call at a time (a lock). Not differentiable.

    Source: paged keys and values: arXiv:2309.06180; HSTU's caching across requests: arXiv:2402.17152, section 3.4.

    Example:
        ``cache = UserCache(model); cache.recommend(["ann"], 10, items=[[3, 14]]); cache.extend(["ann"], [[15]])``
    """

    def __init__(
        self,
        model: Recommender,
        *,
        num_pages: int = 4096,
        page_size: int = 16,
        evict: bool = True,
        frozen: bool = False,
    ) -> None:
        backbone: Any = model.backbone
        if not isinstance(backbone, Resumable):
            kind = type(backbone).__name__
            raise UnsupportedError(
                f"UserCache: model must have a backbone whose state goes on (HSTU, Causal), got {kind}"
            )
        self.model, self.backbone, self.evict = model, backbone, evict
        self.max_items = model.max_items
        weights = next(model.backbone.parameters())
        if not frozen and weights.device.type != "cpu":
            raise UnsupportedError(
                f"UserCache: frozen must be True where weights are not on the CPU, got False with {weights.device}; "
                "call clear() when they change"
            )
        self._frozen = bool(frozen)
        self._parts = nn.ModuleList([model.layout, model.backbone])
        self._seen: tuple[Snapshot, int] | None = None
        self.pool = PagePool(
            backbone.cache_shapes, num_pages=num_pages, page_size=page_size, dtype=weights.dtype, device=weights.device
        )
        self._open, self._head = backbone.open_events, backbone.first_tokens
        self._entries: dict[Hashable, _Entry] = {}  # in the order of use, the longest unused first
        self._lock = threading.Lock()

    def __contains__(self, user: Hashable) -> bool:
        return user in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def users(self) -> list[Hashable]:
        """Who is known, the longest unused first."""
        return list(self._entries)

    @property
    def num_free_pages(self) -> int:
        """Free pages of the pool."""
        return self.pool.num_free

    def history(self, user: Hashable) -> Tensor:
        """int64: the last events of a user, at most ``max_items``; empty for one that is not known."""
        entry = self._entries.get(user)
        return torch.zeros(0, dtype=torch.int64) if entry is None else entry.items

    def free(self, users: Iterable[Hashable]) -> None:
        """Forgets users; those that are not known already are."""
        with self._lock:
            for user in list(users):
                self._forget(user)

    def clear(self) -> None:
        """Forgets all users."""
        self.free(self.users)

    def extend(
        self,
        users: Sequence[Hashable],
        items: Jagged | Sequence[Sequence[int]],
        *,
        timestamps: Jagged | Sequence[Sequence[float]] | None = None,
        target_timestamps: Sequence[float] | Tensor | None = None,
    ) -> Tensor:
        """Reads new events; users that are not known begin with them.

        Args:
            users: B names, all different.
            items: the new events of each, oldest first, as item ids; rows may be empty.
            timestamps: when they were, not before the user's last event; needed if the backbone reads times.
            target_timestamps: ``[B]``: when each state is asked for; ``None``: at the last event.

        Returns:
            ``[B, D]``, what is multiplied with ``item_table``; of a user without events, as of an empty history.

        Raises:
            InvalidTypeError: items or times of the wrong kind.
            InvalidValueError: a user twice, rows or times that do not fit, an item outside the catalog, or no room.
        """
        with self._lock:
            names = _names(users)
            with self.model.answering():
                self._look_at_weights()
            return self._extend(names, items, timestamps, target_timestamps)

    def recommend(
        self,
        users: Sequence[Hashable],
        k: int = 10,
        *,
        items: Jagged | Sequence[Sequence[int]] | None = None,
        timestamps: Jagged | Sequence[Sequence[float]] | None = None,
        target_timestamps: Sequence[float] | Tensor | None = None,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
        exclude_seen: bool = False,
    ) -> Ranked:
        """The k best items for each user, after reading ``items`` (``None``: nothing new); see ``extend``.

        Args:
            users: B names, all different.
            k: how many items.
            items: see ``extend``.
            timestamps: see ``extend``.
            target_timestamps: see ``extend``.
            allowed: bool ``[N]`` or ``[B, N]``: nothing else is recommended.
            exclude: int64 Jagged of item ids per user that are not recommended.
            exclude_seen: do not recommend the last ``max_items`` events; not together with ``exclude``.

        Raises:
            InvalidValueError: as ``extend``, and a filter that does not fit.
        """
        users = _names(users)
        if exclude_seen and exclude is not None:
            raise InvalidValueError("UserCache: exclude must be None with exclude_seen, got both")
        vectors = self.extend(
            users,
            [[] for _ in users] if items is None else items,
            timestamps=timestamps,
            target_timestamps=target_timestamps,
        )
        if exclude_seen:
            exclude = Jagged.from_rows([self.history(user) for user in users])
        decoder, query = self.model.decoder, Query(k=k, allowed=allowed, exclude=exclude)
        if not isinstance(decoder, Retrieve):
            raise InvalidTypeError(f"UserCache: decoder must be Retrieve, got {type(decoder).__name__}")
        with self.model.answering():
            found: Ranked = decoder.of_vectors(vectors, self.backbone.item_table(), query)
            return found

    def _look_at_weights(self) -> None:
        """Drops every state that earlier weights have made; histories stay."""
        if self._frozen:
            return
        layout = self.model.layout  # another one where the catalog has other semantic IDs
        if self._seen is not None:
            snapshot, mark = self._seen
            if layout is self._parts[0] and snapshot.same_parts(self._parts) and snapshot.mark() == mark:
                return
            for entry in self._entries.values():
                self.pool.give_back(entry.pages)
                entry.pages, entry.known, entry.state = [], 0, None
        self._parts = nn.ModuleList([layout, self.model.backbone])
        snapshot = Snapshot(self._parts)
        self._seen = (snapshot, snapshot.mark())

    def _forget(self, user: Hashable) -> None:
        entry = self._entries.pop(user, None)
        if entry is not None:
            self.pool.give_back(entry.pages)

    def _new_events(
        self, users: list[Hashable], items: Any, timestamps: Any, target_timestamps: Any
    ) -> tuple[list[_Entry], Tensor | None]:
        """Each user's entry with its new events and the old pages, not yet stored; int64 times of the questions."""
        op = "UserCache"
        rows = Items(op, self.model).rows("items", items)
        if len(rows) != len(users):
            raise InvalidValueError(f"{op}: items must have one row for each of {len(users)} users, got {len(rows)}")
        reads = self.backbone.reads_times
        if reads and timestamps is None and rows.values.numel():
            raise InvalidValueError(f"{op}: timestamps must be given, as the backbone reads times, got None")
        if not reads:
            timestamps = target_timestamps = None
        elif timestamps is None:
            timestamps = Jagged(torch.zeros(0, dtype=torch.float64), rows.offsets)
        whole, asked = times_of_events(op, rows, timestamps, target_timestamps)
        entries = []
        for row, user in enumerate(users):
            span = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
            new, when = rows.values[span], None if whole is None else whole[span]
            old = self._entries.get(user)
            if old is None:
                old = _Entry(new[:0], None if when is None else when[:0])
            if old.times is not None and when is not None:
                if when.numel() and old.times.numel() and int(when[0]) < int(old.times[-1]):
                    raise InvalidValueError(
                        f"{op}: timestamps must not be before the user's last event at {int(old.times[-1])}, "
                        f"got {int(when[0])} for user {user!r:.40}"
                    )
                when = torch.cat([old.times, when])
            entry = _Entry(torch.cat([old.items, new]), when, old.pages, old.known, old.state)
            if entry.items.numel() > self.max_items:  # positions move: nothing that is known is of use
                entry.items = entry.items[-self.max_items :]
                entry.times = None if entry.times is None else entry.times[-self.max_items :]
                entry.known = 0
            entries.append(entry)
        return entries, asked

    def _make_room(self, users: list[Hashable], needed: int) -> None:
        """Evicts until ``needed`` pages are free, or changes nothing and raises."""
        asked = set(users)
        others = [user for user in self._entries if user not in asked] if self.evict else []
        room = self.pool.num_free + sum(len(self._entries[user].pages) for user in others)
        if room < needed:
            raise InvalidValueError(
                f"UserCache: num_pages must be enough for the users of a call: {needed} more pages are needed and "
                f"{room} of {self.pool.num_pages} can be had"
            )
        for user in others:
            if self.pool.num_free >= needed:
                return
            self._forget(user)

    def _extend(self, users: list[Hashable], items: Any, timestamps: Any, target_timestamps: Any) -> Tensor:
        entries, asked = self._new_events(users, items, timestamps, target_timestamps)
        device = self.model.device
        known = torch.tensor([entry.known for entry in entries], dtype=torch.int64)
        totals = torch.tensor([self._head + entry.items.numel() for entry in entries], dtype=torch.int64)
        final = torch.maximum(totals - self._open, known)  # in the pages after this call
        wanted = [self.pool.pages_for(count) for count in final.tolist()]
        needed = sum(max(want - len(entry.pages), 0) for want, entry in zip(wanted, entries, strict=True))
        self._make_room(users, needed)
        batch = self._batch(entries, known, asked)
        with self.model.answering():
            past = PagedPast(self.pool, [e.pages for e in entries], known.to(device), (totals - known).to(device))
            states = self.backbone.last_states(self.model.layout(batch.to(device)), past)
            for row in (totals > known).nonzero().flatten().tolist():
                entries[row].state = states[row].clone()
            vectors = torch.stack([_state(entry, states) for entry in entries]) if entries else states
            for want, entry in zip(wanted, entries, strict=True):
                entry.pages = entry.pages + self.pool.take(max(want - len(entry.pages), 0))
            past.keep([entry.pages for entry in entries], (final - known).to(device))
            vectors = self.backbone.user_vectors(vectors)
        for user, entry, count in zip(users, entries, final.tolist(), strict=True):
            entry.known = count
            self._entries.pop(user, None)  # to the end: the last one used
            self._entries[user] = entry
        return vectors

    def _batch(self, entries: list[_Entry], known: Tensor, asked: Tensor | None) -> Batch:
        """What has to be read: the events of each user that are not in the pages."""
        marks = (known - self._head).clamp(min=0).tolist()
        new = [entry.items[mark:] for entry, mark in zip(entries, marks, strict=True)]
        rows = Jagged.from_rows(new)
        if not self.backbone.reads_times:
            return Batch(rows)
        late = [entry.times[mark:] for entry, mark in zip(entries, marks, strict=True) if entry.times is not None]
        times = torch.cat(late) if late else torch.zeros(0, dtype=torch.int64)
        newest = [int(e.times[-1]) if e.times is not None and e.times.numel() else 0 for e in entries]
        last = torch.tensor(newest, dtype=torch.int64)
        return Batch(
            rows,
            timestamps=times,
            target_timestamps=successors(times, last if asked is None else asked, rows.offsets),
        )


def _state(entry: _Entry, like: Tensor) -> Tensor:
    return like.new_zeros(like.shape[1]) if entry.state is None else entry.state


def _names(users: Sequence[Hashable]) -> list[Hashable]:
    if isinstance(users, (str, bytes)) or not isinstance(users, Sequence):
        raise InvalidTypeError(f"UserCache: users must be a list of names, got {users!r:.80}")
    for user in users:
        if not isinstance(user, Hashable):
            raise InvalidTypeError(f"UserCache: users must be hashable, got {user!r:.80}")
    if len(set(users)) < len(users):
        raise InvalidValueError(f"UserCache: users must be different, got {len(set(users))} names for {len(users)}")
    return list(users)

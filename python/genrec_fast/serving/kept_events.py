"""Users whose events are tokens of a backbone that goes on (``Resumable``): keys and values in pages of one pool."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged, successors
from genrec_fast.base.protocols import Resumable
from genrec_fast.base.query import Query
from genrec_fast.decoders.retrieve import Retrieve
from genrec_fast.nn.pages import PagedPast, PagePool
from genrec_fast.nn.snapshot import Snapshot
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.kept_users import Entry, KeptUsers, Reading
from genrec_fast.serving.new_events import NewEvents


class KeptEvents(KeptUsers):
    """What ``UserCache`` keeps for a ``Resumable``; see there.

    Args:
        model: its backbone is ``Resumable``.
        num_pages: see ``UserCache``.
        page_size: see ``UserCache``.
        evict: see ``UserCache``.
        frozen: see ``UserCache``.

    Raises:
        UnsupportedError: see ``UserCache``.
    """

    def __init__(self, model: Recommender, *, num_pages: int, page_size: int, evict: bool, frozen: bool) -> None:
        backbone: Any = model.backbone
        self.model, self.backbone = model, backbone
        weights = next(backbone.parameters())
        if not frozen and weights.device.type != "cpu":
            raise UnsupportedError(
                f"UserCache: frozen must be True where weights are not on the CPU, got False with {weights.device}; "
                "call clear() when they change"
            )
        self._frozen = frozen
        self._parts = nn.ModuleList([model.layout, backbone])
        self._seen: tuple[Snapshot, int] | None = None
        self.pool = PagePool(
            backbone.cache_shapes, num_pages=num_pages, page_size=page_size, dtype=weights.dtype, device=weights.device
        )
        self._open, self._head = backbone.open_events, backbone.first_tokens
        super().__init__(self.pool, evict)

    @staticmethod
    def takes(model: Recommender) -> bool:
        """Whether this is how the model's users are kept."""
        return isinstance(model.backbone, Resumable)

    def look(self) -> None:
        """Drops every state that earlier weights have made; histories stay."""
        if self._frozen:
            return
        layout = self.model.layout  # another one where the catalog has other semantic IDs
        if self._seen is not None:
            snapshot, mark = self._seen
            if layout is self._parts[0] and snapshot.same_parts(self._parts) and snapshot.mark() == mark:
                return
            self.drop_states()
        self._parts = nn.ModuleList([layout, self.model.backbone])
        snapshot = Snapshot(self._parts)
        self._seen = (snapshot, snapshot.mark())

    def put(self, users: list[Hashable], events: NewEvents) -> None:
        """Other histories in the place of what was known; nothing is read."""
        entries, _ = self._new_events(users, events, anew=True)
        for user in users:
            self.forget(user)
        self.store(users, entries)

    def read(self, users: list[Hashable], events: NewEvents) -> Reading:
        """``[B, D]``: what is multiplied with ``item_table``, after new events."""
        entries, asked = self._new_events(users, events)
        device = self.model.device
        known = torch.tensor([entry.known for entry in entries], dtype=torch.int64)
        totals = torch.tensor([self._head + entry.items.numel() for entry in entries], dtype=torch.int64)
        final = torch.maximum(totals - self._open, known)  # in the pages after this call
        leaving = self.for_room(users, entries, final.tolist())
        batch = self._batch(entries, known, asked)
        past = PagedPast(self.pool, [e.pages for e in entries], known.to(device), (totals - known).to(device))
        states = self.backbone.last_states(self.model.layout(batch.to(device)), past)
        for row in (totals > known).nonzero().flatten().tolist():
            entries[row].state = states[row].clone()
        vectors = torch.stack([_state(entry, states) for entry in entries]) if entries else states

        def keep() -> None:
            for user in leaving:
                self.forget(user)
            for count, entry in zip(final.tolist(), entries, strict=True):
                entry.pages = entry.pages + self.pool.take(max(self.pool.pages_for(count) - len(entry.pages), 0))
                entry.known = count
            past.keep([entry.pages for entry in entries], (final - known).to(device))
            self.store(users, entries)

        return Reading(self.backbone.user_vectors(vectors), entries, keep)

    def ranked(self, vectors: Tensor, query: Query) -> Ranked:
        """The best items for vectors."""
        decoder = self.model.decoder
        if not isinstance(decoder, Retrieve):
            raise InvalidTypeError(f"UserCache: decoder must be Retrieve, got {type(decoder).__name__}")
        if query.num_beams is not None:
            raise InvalidValueError(f"UserCache: num_beams must be None for retrieval, got {query.num_beams!r:.40}")
        found: Ranked = decoder.of_vectors(vectors, self.backbone.item_table(), query)
        return found

    def _new_events(
        self, users: list[Hashable], events: NewEvents, *, anew: bool = False
    ) -> tuple[list[Entry], Tensor | None]:
        """Each user's entry with its new events and the old pages, not yet stored; int64 times of the questions."""
        op, rows = "UserCache", events.items
        whole, asked = (events.times, events.asked) if self.backbone.reads_times else (None, None)
        most, entries = self.model.max_items, []
        for row, user in enumerate(users):
            span = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
            new, when = rows.values[span], None if whole is None else whole[span]
            old = None if anew else self.entries.get(user)
            if old is None:
                old = Entry(new[:0], None if when is None else when[:0])
            if old.times is not None and when is not None:
                if when.numel() and old.times.numel() and int(when[0]) < int(old.times[-1]):
                    raise InvalidValueError(
                        f"{op}: timestamps must not be before the user's last event at {int(old.times[-1])}, "
                        f"got {int(when[0])} for user {user!r:.40}"
                    )
                when = torch.cat([old.times, when])
            entry = old.extended(new, when, most)
            if old.items.numel() + new.numel() > most:  # positions move: nothing that is known is of use
                entry.known = 0
            entries.append(entry)
        return entries, asked

    def _batch(self, entries: list[Entry], known: Tensor, asked: Tensor | None) -> Batch:
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


def _state(entry: Entry, like: Tensor) -> Tensor:
    state: Tensor = like.new_zeros(like.shape[1]) if entry.state is None else entry.state
    return state

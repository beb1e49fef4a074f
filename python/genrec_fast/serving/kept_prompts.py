"""Users of a language model (``Continuable``): what is kept of a prompt is what the next one begins with."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Continuable, PromptReader, Session
from genrec_fast.base.query import Query
from genrec_fast.decoders.base import run
from genrec_fast.nn.pages import Pages
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.kept_users import Entry, KeptUsers, Reading
from genrec_fast.serving.new_events import NewEvents


class KeptPrompts(KeptUsers):
    """What ``UserCache`` keeps for a ``Continuable``; see there. Pages are counted; sessions hold what is on them.

    Args:
        model: its backbone is ``Continuable``.
        num_pages: see ``UserCache``.
        page_size: see ``UserCache``.
        evict: see ``UserCache``.
        frozen: see ``UserCache``.

    Raises:
        UnsupportedError: see ``UserCache``.
    """

    def __init__(self, model: Recommender, *, num_pages: int, page_size: int, evict: bool, frozen: bool) -> None:
        super().__init__(Pages(num_pages=num_pages, page_size=page_size), evict)
        backbone: Any = model.backbone
        self.model, self._frozen = model, frozen
        self._reader: PromptReader = backbone.reader(frozen=frozen)

    @staticmethod
    def takes(model: Recommender) -> bool:
        """Whether this is how the model's users are kept."""
        return isinstance(model.backbone, Continuable)

    def look(self) -> None:
        """Drops every state that earlier weights have made; histories stay."""
        backbone: Any = self.model.backbone
        before, self._reader = self._reader, backbone.reader(frozen=self._frozen)
        if before.version is not self._reader.version:
            self.drop_states()

    def put(self, users: list[Hashable], events: NewEvents) -> None:
        """Other histories in the place of what was known; what both begin with alike is not read again."""
        for user, entry in zip(users, self._new_items(users, events, anew=True), strict=True):
            old = self.entries.get(user)
            if old is not None:
                entry.pages, entry.known, entry.state = old.pages, old.known, old.state
            self.store([user], [entry])

    def read(self, users: list[Hashable], events: NewEvents) -> Reading:
        """The users' prompts with new items, and the session behind them: ``ReadPrompts``."""
        entries = self._new_items(users, events)
        batch = self.model.layout(Batch(Jagged.from_rows([entry.items for entry in entries])))
        if not entries:
            return Reading(ReadPrompts(self.model, batch, None), entries, lambda: None)
        prompts = batch.items
        lengths = prompts.lengths.tolist()
        leaving = self.for_room(users, entries, lengths)
        session, kept = self._reader.read(prompts, [entry.state for entry in entries])

        def keep() -> None:
            for user in leaving:
                self.forget(user)
            for entry, state, length in zip(entries, kept, lengths, strict=True):
                self.fit(entry, length)
                entry.state, entry.known = state, length
            self.store(users, entries)

        return Reading(ReadPrompts(self.model, batch, session), entries, keep)

    def ranked(self, found: ReadPrompts, query: Query) -> Ranked:
        """The best items behind prompts, by the recommender's decoder."""
        best: Ranked = run(self.model.decoder.begin(found, found.batch, query))
        return best

    def _new_items(self, users: list[Hashable], events: NewEvents, *, anew: bool = False) -> list[Entry]:
        empty = Entry(torch.zeros(0, dtype=torch.int64), None)
        known = [empty if anew else self.entries.get(user, empty) for user in users]
        most = self.model.max_items
        return [old.extended(new, None, most) for old, new in zip(known, events.items.rows(), strict=True)]


class ReadPrompts:
    """A recommender that has read some prompts already, as a search sees it: itself its own backbone.

    Args:
        model: the recommender.
        batch: the prompts.
        session: behind them; ``None`` where there are none.
    """

    def __init__(self, model: Recommender, batch: Batch, session: Session | None) -> None:
        backbone: Any = model.backbone
        self.trie, self.plan, self.codebook_sizes = model.trie, backbone.plan, backbone.codebook_sizes
        self.batch, self.session, self.backbone = batch, session, self

    def prefill(self, batch: Batch) -> Session:
        """The session."""
        assert self.session is not None
        return self.session

"""What a network made of users' histories, kept between questions: a new event is read without those before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from genrec_fast.base.batch import Ranked
from genrec_fast.base.checks import check_flag
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.items import Items
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.base.query import SearchOptions, check_options, checked_query, seen_are_tokens, skips
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.kept_events import KeptEvents
from genrec_fast.serving.kept_prompts import KeptPrompts
from genrec_fast.serving.kept_users import Reading
from genrec_fast.serving.new_events import NewEvents

T = TypeVar("T")


class UserCache:
    """Keys and values of users' histories, kept between questions, in pages that all users share.

    ``extend`` reads new events and gives the states after them, equal (up to rounding) to reading each user's last
    ``max_items`` events anew.

    What is kept, exactly: the keys and values of an event in every layer once nothing can change them any more. They
    depend on the events before it and on its query time. A backbone whose bias reads times asks position i at the time
    of event i + 1, so its last event is open until the next one comes: it is kept as an item and a time only, and read
    again (one token) with every question, at the question's time. Other backbones have no open event. Inputs counted
    from the end of a history change with every event: such settings are refused.

    A history beyond ``max_items`` loses its oldest event with every new one, so all its positions move: it is read
    anew each time.

    Of a language model (``gf.hf.compile``) the keys and values of a prompt's tokens are kept. The next prompt is
    compared with it, token by token, and read from the first one that differs: tokens that stand behind a history
    (``after``) are read again behind the new item. Where a history is cut at its front, the prompt begins otherwise: it
    is read anew. On the native engine the answers are those of ``recommend``, bit for bit; on torch they differ by
    rounding, as its products depend on how many tokens are read together; users are read and searched together where
    the model is told each token's place, else one by one.
    An encoder-decoder is refused: its encoder sees a prompt from both sides, so a new item changes all of it.

    Args:
        model: its backbone must be a ``Resumable`` (``HSTU``, ``Causal``), or a language model without an encoder.
        num_pages: pages of all users.
        page_size: events (of a language model: tokens) on a page.
        evict: where pages run out, forget the users that were asked for longest ago; else that is an error.
        frozen: the weights and item tables will not change, or ``clear`` is called where they do. Else every call reads
            them once, at the speed of memory, and reads all histories anew when anything has changed. (The native
            engine of a language model looks for itself: ``gf.hf.compile(..., frozen=True)``.)

    Raises:
        UnsupportedError: a backbone that cannot go on, or not with its settings; weights that are not on the CPU, and
            not frozen.

    Notes:
        Memory: of a ``Resumable`` all pages at once, ``4 num_pages page_size sum over layers of H (Dqk + Dv)`` bytes;
        of a language model the pages in use, ``8 page_size sum over layers of Hkv D`` bytes each (half of that where
        its keys are bfloat16). Per user the item ids and times. One call at a time (a lock).
        Not differentiable.

    Source: paged keys and values: arXiv:2309.06180; HSTU's caching across requests: arXiv:2402.17152, section 3.4;
    prompts that begin alike: arXiv:2312.07104.

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
        kind = next((kind for kind in (KeptEvents, KeptPrompts) if kind.takes(model)), None)
        if kind is None:
            name = type(model.backbone).__name__
            raise UnsupportedError(
                "UserCache: model must have a backbone whose state goes on (HSTU, Causal, a language model without an "
                f"encoder), got {name}"
            )
        self.model = model
        settings: Any = {"num_pages": num_pages, "page_size": page_size, "evict": evict, "frozen": bool(frozen)}
        self._kept: KeptEvents | KeptPrompts = kind(model, **settings)
        self._lock = threading.Lock()

    def __contains__(self, user: Hashable) -> bool:
        return user in self._kept.entries

    def __len__(self) -> int:
        return len(self._kept.entries)

    @property
    def users(self) -> list[Hashable]:
        """Who is known, the longest unused first."""
        return list(self._kept.entries)

    @property
    def num_free_pages(self) -> int:
        """Free pages."""
        return self._kept.pages.num_free

    def history(self, user: Hashable) -> Tensor:
        """int64: the last events of a user, at most ``max_items``; empty for one that is not known."""
        entry = self._kept.entries.get(user)
        return torch.zeros(0, dtype=torch.int64) if entry is None else entry.items

    def free(self, users: Iterable[Hashable]) -> None:
        """Forgets users; those that are not known already are.

        Raises:
            InvalidTypeError: not a list of names; nobody is forgotten then.
        """
        names = _hashable(users if isinstance(users, (str, bytes)) else list(users))
        with self._lock:
            for user in names:
                self._kept.forget(user)

    def clear(self) -> None:
        """Forgets all users."""
        self.free(self.users)

    def replace(
        self,
        users: Sequence[Hashable],
        items: Jagged | Sequence[Sequence[int]],
        *,
        timestamps: Jagged | Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Puts whole histories in the place of what was known; the next question reads them.

        A language model reads a history from where it differs from the old one, so this is the way for whole prompts
        that end in more than a history (a template's last lines). Other backbones read it anew.

        Args:
            users: B names, all different.
            items: the whole history of each, as in ``extend``.
            timestamps: as in ``extend``.

        Raises:
            InvalidTypeError, InvalidValueError: as ``extend``.
        """
        with self._lock:
            names = _names(users)
            self._kept.put(names, NewEvents.of(self.model, names, items, timestamps))

    def extend(
        self,
        users: Sequence[Hashable],
        items: Jagged | Sequence[Sequence[int]],
        *,
        timestamps: Jagged | Sequence[Sequence[float]] | None = None,
        target_timestamps: Sequence[float] | Tensor | None = None,
    ) -> Tensor | Session | None:
        """Reads new events; users that are not known begin with them.

        Args:
            users: B names, all different.
            items: the new events of each, oldest first, as item ids or names (token ids where a language model was
                compiled to read tokens); rows may be empty.
            timestamps: when they were, not before the user's last event; needed if the backbone reads times.
            target_timestamps: ``[B]``: when each state is asked for; ``None``: at the last event.

        Returns:
            ``[B, D]``, what is multiplied with ``item_table``; of a user without events, as of an empty history. Of a
            language model the session behind the prompts (``None`` for no users).

        Raises:
            InvalidTypeError: items or times of the wrong kind.
            InvalidValueError: a user twice, rows or times that do not fit, an item outside the catalog, an empty
                prompt, or no room.
        """
        names = _names(users)
        events = NewEvents.of(self.model, names, items, timestamps, target_timestamps)
        found = self._read(lambda reading: reading.found, names, events)
        return found if isinstance(found, Tensor) else found.session

    def recommend(
        self,
        users: Sequence[Hashable],
        k: int = 10,
        *,
        items: Jagged | Sequence[Sequence[int]] | None = None,
        timestamps: Jagged | Sequence[Sequence[float]] | None = None,
        target_timestamps: Sequence[float] | Tensor | None = None,
        **options: Unpack[SearchOptions],
    ) -> Ranked:
        """The k best items for each user, after reading ``items`` (``None``: nothing new); see ``extend``.

        Args:
            users: B names, all different.
            k: how many items.
            items: see ``extend``.
            timestamps: see ``extend``.
            target_timestamps: see ``extend``.
            options: ``allowed``, ``candidates``, ``exclude``, ``exclude_seen`` (of the last ``max_items`` events),
                ``unknown`` (of ``items`` and the filters; ``Ranked.skipped`` counts those of ``items``), ``num_beams``
                and ``exact`` (of a language model's search), ``seed``; see ``base.query.Options``. Its ``users`` and
                ``actions`` are not kept.

        Raises:
            InvalidTypeError: as ``extend``, and an option that there is not.
            InvalidValueError: as ``extend``, and a filter or a width that does not fit.
            UnsupportedError: ``actions``.
        """
        users, op, model = _names(users), "UserCache", self.model
        if "actions" in options:
            raise UnsupportedError(f"{op}: actions must not be given: of an event its item and time are kept, no more")
        check_options(op, options, SearchOptions)
        without_seen = check_flag(op, "exclude_seen", options.get("exclude_seen", False))
        if without_seen and model.reads_tokens:
            raise seen_are_tokens(op)
        skip = skips(op, options.get("unknown", "refuse"))
        query = checked_query(Items(op, model, skip), len(users), k, options).filtered(model.num_items)
        items = [[] for _ in users] if items is None else items
        events = NewEvents.of(model, users, items, timestamps, target_timestamps, skip=skip)

        def best(reading: Reading) -> Ranked:
            exclude = query.exclude
            if without_seen:
                seen = Jagged.from_rows([entry.items for entry in reading.entries], torch.int64)
                exclude = seen if exclude is None else exclude.followed_by(seen)
            return self._kept.ranked(reading.found, replace(query, exclude=exclude))

        return replace(self._read(best, users, events), skipped=events.skipped)

    def _read(self, answer: Callable[[Reading], T], users: list[Hashable], events: NewEvents) -> T:
        """Reads new events and answers; only then anything that is kept changes."""
        with self._lock, self.model.answering():
            self._kept.look()
            reading = self._kept.read(users, events)
            found = answer(reading)
            reading.keep()
            return found


def _hashable(users: Sequence[Hashable]) -> list[Hashable]:
    if isinstance(users, (str, bytes)) or not isinstance(users, Sequence):
        raise InvalidTypeError(f"UserCache: users must be a list of names, got {users!r:.80}")
    for user in users:
        try:
            hash(user)
        except TypeError as error:  # a tuple with a list in it is a Hashable, too
            raise InvalidTypeError(f"UserCache: users must be hashable, got {user!r:.80}") from error
    return list(users)


def _names(users: Sequence[Hashable]) -> list[Hashable]:
    names = _hashable(users)
    if len(set(names)) < len(names):
        raise InvalidValueError(f"UserCache: users must be different, got {len(set(names))} names for {len(names)}")
    return names

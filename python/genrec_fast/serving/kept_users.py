"""Users of whom something is kept: who was asked for last, whose pages are whose, and who goes when these run out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.pages import Pages


@dataclass
class Entry:
    """One user: the last events (at most max_items), what of them is in the pages, and the state after them."""

    items: Tensor
    times: Tensor | None
    pages: list[int] = field(default_factory=list)
    known: int = 0  # tokens in the pages
    state: Any = None

    def extended(self, items: Tensor, times: Tensor | None, most: int) -> Entry:
        """A new one with more events; beyond ``most`` the oldest go."""
        entry = Entry(torch.cat([self.items, items])[-most:], times, self.pages, self.known, self.state)
        entry.times = None if times is None else times[-most:]
        return entry


@dataclass
class Reading:
    """Users' events with the new ones, read; nothing that is kept has changed before ``keep`` is called."""

    found: Any
    """what is behind them: vectors, or prompts that were read"""
    entries: list[Entry]
    keep: Callable[[], None]


class KeptUsers:
    """Entries by user, in the order of use, and the pages that they share.

    Args:
        pages: of all of them.
        evict: where pages run out, forget the users that were asked for longest ago; else that is an error.
    """

    def __init__(self, pages: Pages, evict: bool) -> None:
        self.pages, self.evict = pages, evict
        self.entries: dict[Hashable, Entry] = {}  # the longest unused first

    def forget(self, user: Hashable) -> None:
        """Gives a user's pages back; one that is not known already has none."""
        entry = self.entries.pop(user, None)
        if entry is not None:
            self.pages.give_back(entry.pages)

    def drop_states(self) -> None:
        """Forgets what was made of everybody's events; the events stay."""
        for entry in self.entries.values():
            self.pages.give_back(entry.pages)
            entry.pages, entry.known, entry.state = [], 0, None

    def for_room(self, users: list[Hashable], entries: list[Entry], tokens: list[int]) -> list[Hashable]:
        """Who must go so that each of the users' entries can have pages for so many tokens; nobody goes here.

        Raises:
            InvalidValueError: there is no room for them.
        """
        wanted = zip(tokens, entries, strict=True)
        needed = sum(max(self.pages.pages_for(count) - len(entry.pages), 0) for count, entry in wanted)
        asked = set(users)
        room, leaving = self.pages.num_free, []
        for user in [user for user in self.entries if user not in asked] if self.evict else []:
            if room >= needed:
                break
            room += len(self.entries[user].pages)
            leaving.append(user)
        if room < needed:
            raise InvalidValueError(
                f"UserCache: num_pages must be enough for the users of a call: {needed} more pages are needed and "
                f"{room} of {self.pages.num_pages} can be had"
            )
        return leaving

    def fit(self, entry: Entry, tokens: int) -> None:
        """Takes pages, or gives some back, until an entry has as many as its tokens need."""
        wanted = self.pages.pages_for(tokens)
        self.pages.give_back(entry.pages[wanted:])
        entry.pages = entry.pages[:wanted] + self.pages.take(max(wanted - len(entry.pages), 0))

    def store(self, users: list[Hashable], entries: list[Entry]) -> None:
        """These users were the last ones used."""
        for user, entry in zip(users, entries, strict=True):
            self.entries.pop(user, None)
            self.entries[user] = entry

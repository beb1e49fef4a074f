"""Decoders that search the trie: a pass over some users, which widens until the certificate holds."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.checks import check_flag, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.protocols import Autoregressive, Session, TreeSession
from genrec_fast.base.query import Query
from genrec_fast.catalog.changed import ChangedTrie
from genrec_fast.decoders.arguments import check_filter, check_k
from genrec_fast.decoders.base import Decoder
from genrec_fast.decoders.trie_search import BEST, Rule, TrieSearch
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.ops.trie_filter import CatalogTrie, trie_filter

# Logits of one widened search: 2^26 float32 are 256 MiB, and a user whose certificate fails needs many beams.
_WIDENED_LOGITS = 1 << 26
# Beams of all users that a pass searches in one call where the engine can. That saves 0.2 ms of Python, which is lost
# in the 20 ms and more of a search of more beams, within which a server would rather begin others.
_ONE_CALL = 256


class SearchPass:
    """The search of some users as a ``Pass``; with ``query.exact`` it widens where the certificate fails.

    Users whose k-th score is not above the bound are searched again with twice the beams each time, until it is or the
    search has ``query.max_num_beams``; their histories are not read again. A search that keeps every row prunes
    nothing, so this ends.

    Args:
        session: behind the histories; ``None`` where there is no user.
        users: B.
        trie: the catalog.
        query: checked.
        num_beams: at every level.
        widths: int64 ``[B]``, or ``None``; see ``TrieSearch``.
        plan: what else is searched for.
        rule: which beams live.
        kind: what searches.
    """

    def __init__(
        self,
        session: Session | None,
        users: int,
        trie: CatalogTrie,
        query: Query,
        num_beams: tuple[int, ...],
        widths: Tensor | None,
        plan: Plan,
        rule: Rule,
        kind: type[TrieSearch] = TrieSearch,
    ) -> None:
        self.trie, self.query, self.rule, self._plan, self._kind = trie, query, rule, plan, kind
        device = trie.device
        self._found = unanswered(users, query.k, trie)
        self.finished = torch.zeros_like(self._found.exact)
        self._root = session
        self._waiting: deque[tuple[Tensor, tuple[int, ...], Tensor | None]] = deque()
        if users:
            self._waiting.append((torch.arange(users, device=device), num_beams, widths))
        self._running: TrieSearch | None = None
        self._next()

    @property
    def done(self) -> bool:
        """Whether no user is left to be searched."""
        return self._running is None

    def advance(self) -> None:
        """Searches the next level."""
        search = self._running
        assert search is not None
        search.advance()
        if not search.done:
            return
        found = search.ranked(self.query.k)
        for name in ("items", "codes", "scores", "exact", "bound"):
            getattr(self._found, name)[self._users] = getattr(found, name)
        sure = found.exact | self._widest() if self.query.exact else torch.ones_like(found.exact)
        self.finished[self._users] = sure
        if not bool(sure.all()):
            self._widen(~sure)
        self._next()

    def results(self) -> Ranked:
        """The k best items of each user."""
        return self._found

    def first(self) -> TrieSearch | None:
        """The search that is about to begin, level by level, for decoders that go on from its beams; none: no user."""
        if self._running is not None:
            self._running.in_one_call = False
        return self._running

    def _widest(self) -> Tensor:
        """Bool ``[n]``, of the users just searched: who may not be searched wider, proven or not."""
        assert self._running is not None
        most, widths = self.query.max_num_beams, self._running.widths
        if most is None:
            return torch.zeros_like(self._users, dtype=torch.bool)
        if widths is not None:
            return widths >= most
        return torch.full_like(self._users, min(self._running.plan.num_beams) >= most, dtype=torch.bool)

    def _widen(self, failed: Tensor) -> None:
        assert self._running is not None
        running, rows = self._running, self.trie.num_rows
        if self.query.max_num_beams is not None:
            rows = min(rows, self.query.max_num_beams)
        num_beams = tuple(min(2 * width, max(rows, width)) for width in running.plan.num_beams)
        size = max(1, _WIDENED_LOGITS // (max(num_beams) * max(self.trie.codebook_sizes)))
        for part in failed.nonzero().squeeze(1).split(size):
            own = None if running.widths is None else running.widths[part]
            if own is not None:
                own = torch.minimum(2 * own, own.clamp(min=rows))
                num_beams = (int(own.max()),) * len(num_beams)
            self._waiting.append((self._users[part], num_beams, own))

    def _next(self) -> None:
        """Begins the search of who waits longest."""
        self._running = None
        if not self._waiting:
            return
        self._users, num_beams, widths = self._waiting.popleft()
        query, session = self.query, self._root
        assert session is not None
        if query.exact:
            query, session = query.select(self._users), session.select(self._users)
        keep = None
        if query.allowed is not None or query.exclude is not None or getattr(self.trie, "kept", None) is not None:
            keep = trie_filter(self.trie, allowed=query.allowed, exclude=query.exclude)
        plan = dataclasses.replace(self._plan, num_beams=num_beams, keep=keep)
        users = len(self._users)
        whole = users * max(num_beams) <= _ONE_CALL
        trie = getattr(self.trie, "searched", self.trie)  # items that are gone are a matter of the filter
        self._running = self._kind(session, trie, plan, users, self.rule, widths, in_one_call=whole)


class SearchDecoder(Decoder):
    """A search over the trie; subclasses say by which rule it chooses.

    Attributes:
        name: in messages.
        uneven: whether beams may differ from level to level and from user to user.
        no_proof: why its items cannot be proven to be the best; ``None``: they can.
        search_kind: what searches, over what ``prefill`` gives.
    """

    needs: ClassVar[type] = Autoregressive
    by_level: ClassVar[bool] = True
    name: ClassVar[str]
    uneven: ClassVar[bool] = False
    no_proof: ClassVar[str | None] = None
    search_kind: ClassVar[type[TrieSearch]] = TrieSearch

    def __init__(self, config: Any) -> None:
        self.config = config

    def width(self, k: int, num_beams: int | None) -> int:
        """The beams of a search for k items; ``None``: the configured number, or k if that is more.

        Raises:
            InvalidValueError: k is below 1, or num_beams does not fit.
        """
        k, beams = check_k(self.name, k, num_beams)
        return max(self.config.num_beams, k) if num_beams is None else beams

    def rule(self, batch: Batch, num_beams: int, query: Query) -> Rule:
        """Which beams live in one search; the best."""
        return BEST

    def prefill(self, system: Any, batch: Batch) -> Session:
        """The session behind the histories, which are read now: the backbone's."""
        session: Session = system.backbone.prefill(batch)
        return session

    def settled(self, query: Query) -> Query:
        """See ``Decoder``.

        Raises:
            InvalidValueError: k or num_beams does not fit; exact, for a decoder without a proof.
        """
        if check_flag(self.name, "exact", query.exact) and self.no_proof is not None:
            raise InvalidValueError(f"{self.name}: exact must be False{self.no_proof}")
        given: Any = query.num_beams
        k, width = whole_number(self.name, "k", query.k), given
        if self.uneven and isinstance(given, Tensor) and given.dim() == 1:
            if given.dtype != torch.int64:
                kind = str(given.dtype).removeprefix("torch.")
                raise InvalidTypeError(f"{self.name}: num_beams must be int64 [B], got {kind}")
            check_k(self.name, k, int(given.min()) if given.numel() else None)
        elif self.uneven and isinstance(given, (tuple, list)):
            widths = [check_k(self.name, 1, beams)[1] for beams in given]
            width = (*widths[:-1], *(check_k(self.name, k, beams)[1] for beams in widths[-1:]))
        else:
            width = self.width(k, given)
        return dataclasses.replace(query, k=k, num_beams=width)

    def begin(self, system: Any, batch: Batch, query: Query) -> SearchPass:
        """Reads the histories; every ``advance`` searches one level, or all of them where the engine can.

        Raises:
            InvalidTypeError, InvalidValueError: as ``search``.
        """
        return self.begun(system, batch, self.settled(query))

    def begun(self, system: Any, batch: Batch, query: Query) -> SearchPass:
        """``begin`` of a query that is settled, whose k may be more than the beams of some users."""
        backbone, trie = system.backbone, system.trie
        check_parts(self.name, backbone, trie)
        check_filter(self.name, len(batch), trie.num_items, query.allowed, query.exclude)
        num_beams, widths = self._widths(query.num_beams, len(batch), len(trie.codebook_sizes))
        rule = self.rule(batch, max(num_beams), query)
        # A language model is extended by tokens, and says which.
        plan = dataclasses.replace(
            getattr(backbone, "plan", Plan(num_beams)), normalize=getattr(self.config, "normalize", "valid")
        )
        session = self.prefill(system, batch) if len(batch) else None
        return SearchPass(session, len(batch), trie, query, num_beams, widths, plan, rule, self.search_kind)

    def _widths(self, settled: Any, users: int, levels: int) -> tuple[tuple[int, ...], Tensor | None]:
        """Beams at every level, and each user's own where they have some."""
        if isinstance(settled, Tensor):
            if len(settled) != users:
                raise InvalidValueError(f"{self.name}: num_beams must be int64 [{users}], got {list(settled.shape)}")
            return (max(settled.tolist(), default=1),) * levels, settled
        if isinstance(settled, tuple) and len(settled) != levels:
            raise InvalidValueError(f"{self.name}: num_beams must have {levels} numbers, got {len(settled)}")
        return settled if isinstance(settled, tuple) else (settled,) * levels, None


def unanswered(users: int, k: int, trie: CatalogTrie) -> Ranked:
    """No item yet, for anybody."""
    device, shape = trie.device, (users, k)
    return Ranked(
        torch.full(shape, -1, device=device),
        torch.full((*shape, len(trie.codebook_sizes)), -1, dtype=torch.int32, device=device),
        torch.full(shape, -torch.inf, dtype=torch.float32, device=device),
        torch.zeros(users, dtype=torch.bool, device=device),
        torch.full((users,), torch.inf, dtype=torch.float32, device=device),
    )


def as_built(op: str, trie: CatalogTrie, query: Query) -> tuple[CatalogTrie, Query]:
    """A trie as it was built, and the query, to which items that are gone since are a filter.

    Raises:
        UnsupportedError: items were appended and not merged yet.
    """
    if isinstance(trie, ChangedTrie):
        if trie.kept is not None:
            there = trie.kept if query.allowed is None else query.allowed & trie.kept
            query = dataclasses.replace(query, allowed=there)
        trie = trie.searched
    if isinstance(trie, ChangedTrie):
        raise UnsupportedError(
            f"{op}: trie must be built, got one with {len(trie.added)} items appended; merge() it first"
        )
    return trie, query


def check_tree(op: str, session: object) -> TreeSession:
    """A backbone's session, where it takes rows of any depth in one call.

    Raises:
        UnsupportedError: it does not.
    """
    if not isinstance(session, TreeSession):
        raise UnsupportedError(
            f"{op}: the backbone's session must be a TreeSession (extend_tree), got {type(session).__name__}"
        )
    return session


def check_parts(op: str, backbone: object, trie: Any) -> None:
    """The backbone can be searched, over this trie.

    Raises:
        InvalidTypeError: the trie is none, or the backbone is not ``Autoregressive``.
        InvalidValueError: codebook sizes differ.
    """
    if not (hasattr(trie, "codebook_sizes") and hasattr(trie, "lookup")):
        raise InvalidTypeError(f"{op}: trie must be a Trie, got {shown(trie)}")
    if not isinstance(backbone, Autoregressive):
        raise InvalidTypeError(f"{op}: backbone must be Autoregressive, got {type(backbone).__name__}")
    if tuple(backbone.codebook_sizes) != tuple(trie.codebook_sizes):
        raise InvalidValueError(
            f"{op}: backbone must have the trie's codebook sizes {tuple(trie.codebook_sizes)}, "
            f"got {tuple(backbone.codebook_sizes)}"
        )

"""The best-first search of some users: in one call of the engine, or round by round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Ranked, proven
from genrec_fast.base.query import Query
from genrec_fast.decoders.frontier import Prefixes
from genrec_fast.decoders.search_pass import unanswered
from genrec_fast.nn.engine.plan import BestFirstPlan
from genrec_fast.ops.expand_rows import expand_rows
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter, trie_filter
from genrec_fast.ops.trie_offsets import unpack_offsets, widen
from genrec_fast.ops.trie_step import trie_step

# Users whose search is one call, where the engine can: a server would rather begin others than wait longer.
_ONE_CALL = 64


class BestFirstCalls:
    """A best-first search as a ``Pass`` that the engine runs: every ``advance`` is a call for some users.

    Args:
        session: behind the histories, with ``best_first``.
        users: B.
        trie: the catalog.
        query: checked.
        plan: what is searched for.
    """

    def __init__(self, session: Any, users: int, trie: CatalogTrie, query: Query, plan: BestFirstPlan) -> None:
        self.trie, self.query, self.plan, self._session = trie, query, plan, session
        self._found = unanswered(users, plan.k, trie)
        self.finished = torch.zeros_like(self._found.exact)
        self.expanded = torch.zeros(users, dtype=torch.int64)
        """int64 ``[B]``: rows of the network that each user took"""
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether all users have their results."""
        return self._next == len(self.finished)

    def results(self) -> Ranked:
        """The k best items of each user."""
        return self._found

    def advance(self) -> None:
        """The next users."""
        first, last = self._next, min(self._next + _ONE_CALL, len(self.finished))
        width = self.plan.k
        found = self._session.best_first(self.trie, self.plan, (first, last), width)
        while bool(found.cut.any()):  # equal scores: which items come first is known when all rows are
            width = 4 * width
            found = self._session.best_first(self.trie, self.plan, (first, last), width)
        keep = self.plan.keep
        if keep is not None and self.trie.leaf_items.shape[0] != self.trie.num_rows:
            keep = filter_of(self.trie, self.query.slice(first, last, of=len(self.finished)))
        best = expand_rows(self.trie, found.rows, found.codes, found.scores, self.plan.k, keep)
        for name, part in zip(("items", "codes", "scores"), best, strict=True):
            getattr(self._found, name)[first:last] = part
        self._found.bound[first:last] = found.bound
        self._found.exact[first:last] = proven(best[2], found.bound)
        self.expanded[first:last] = found.expanded
        self.finished[first:last] = True
        self._next = last


class BestFirstPass:
    """A best-first search as a ``Pass``: every ``advance`` is a round.

    Args:
        session: behind the histories; ``None`` where there is no user.
        users: B.
        trie: the catalog.
        query: checked.
        plan: what is searched for.
    """

    def __init__(self, session: Any, users: int, trie: CatalogTrie, query: Query, plan: BestFirstPlan) -> None:
        device, levels = trie.leaf_items.device, len(trie.codebook_sizes)
        self.trie, self.query, self.plan, self._levels = trie, query, plan, levels
        self._budget = torch.iinfo(torch.int64).max if plan.budget is None else plan.budget
        self._found = unanswered(users, plan.k, trie)
        self.finished = torch.zeros_like(self._found.exact)
        self.expanded = torch.zeros(users, dtype=torch.int64, device=device)
        """int64 ``[B]``: rows of the network that each user took"""
        self._session = session
        self._users = torch.arange(users, device=device)
        """who is in the session; some of them may have their results"""
        self._rows = 1  # of the session, per user
        self._open = Prefixes.root(users, levels, device)
        self._whole = Prefixes.none(users, levels, device)
        self._lost = torch.full((users,), -torch.inf, device=device)
        self._keep = plan.keep
        self._diving = torch.zeros(users, dtype=torch.int64, device=device)
        # With "valid" what follows a prefix of one semantic ID is certain, unless a session forbids codes by -inf.
        self._certain = plan.normalize == "valid" and session is not None and session.finite

    @property
    def done(self) -> bool:
        """Whether all users have their results."""
        return not self._users.numel()

    def results(self) -> Ranked:
        """The k best items of each user."""
        return self._found

    def advance(self) -> None:
        """One round: the best open prefixes of each user are extended."""
        picked = self._picked()
        chosen, self._open = self._open.split(picked)
        children = self._extended(chosen)
        for level in range(self._levels):
            here = (chosen.levels == level) & (chosen.nodes >= 0)
            if children is not None and bool(here.any()):
                self._add(level, self._children(level, chosen.where(here), children))
        least = self._least()
        self._open, dropped = self._open.best(least)
        self._lost = torch.maximum(self._lost, dropped)
        self._finish(least)

    def _picked(self) -> Tensor:
        """Bool ``[b, P]``: which open prefixes are extended now; they stand in order."""
        taken, live = self.expanded[self._users], self._open.nodes >= 0
        room = (taken // self.plan.share).clamp(min=self.plan.least_rows)
        room = torch.minimum(room, self._budget - taken).where(~self.finished[self._users], 0)
        picked = live & (live.cumsum(1) <= room.unsqueeze(1))
        diving = self._diving.unsqueeze(1)
        if not bool((diving > 0).any()):
            return picked
        at = live & (self._open.levels == diving) & (diving > 0)
        return picked.where(diving == 0, at & (at.cumsum(1) <= self.plan.k))

    def _extended(self, chosen: Prefixes) -> Tensor | None:
        """Logits ``[b, R, K]`` behind the chosen prefixes; the session goes on."""
        slots = chosen.nodes.shape[1]
        if not slots:
            return None
        if self._rows > 1 or bool((chosen.levels > 0).any()):
            live = chosen.nodes >= 0
            self.expanded[self._users] += live.sum(1)
            last = chosen.codes.gather(2, (chosen.levels - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
            self._session = self._session.extend_tree(last.where(live, 0), chosen.parents.where(live, 0))
            self._rows += slots
        logits: Tensor = self._session.scores()[0]
        return logits

    def _children(self, level: int, chosen: Prefixes, logits: Tensor) -> Prefixes:
        """Every child of some prefixes, all of one level."""
        bases, deltas, nodes = self.trie.child_bases[level], self.trie.child_deltas[level], chosen.nodes
        at = nodes.clamp(min=0).long()
        counts = (unpack_offsets(bases, deltas, at + 1) - unpack_offsets(bases, deltas, at)).where(nodes >= 0, 0)
        step = trie_step(
            self.trie,
            level,
            logits[..., : self.trie.codebook_sizes[level]],
            nodes,
            chosen.scores,
            num_beams=max(1, int(counts.sum(1).max())),
            normalize=self.plan.normalize,
            allowed=self._keep,
        )
        slots = step.parents.long()
        codes = chosen.codes.gather(1, slots.unsqueeze(2).expand(-1, -1, self._levels)).clone()
        codes[..., level] = step.codes
        numbers = slots + (self._rows - nodes.shape[1])
        return Prefixes(step.scores, step.nodes, torch.full_like(slots, level + 1), numbers, codes)

    def _add(self, level: int, children: Prefixes) -> None:
        """To what is whole, or to what is open."""
        if level + 1 == self._levels:
            self._whole = self._whole.joined(children)
            return
        if self._certain:
            alone, rest = self._alone(level + 1, children)
            self._whole, children = self._whole.joined(alone), rest
        self._open = self._open.joined(children)

    def _alone(self, level: int, prefixes: Prefixes) -> tuple[Prefixes, Prefixes]:
        """Those that lead to one semantic ID, written to its end, and the others."""
        first = prefixes.nodes.clamp(min=0).long()
        end, codes = first + 1, prefixes.codes.clone()
        for below in range(level, self._levels):
            bases, deltas = self.trie.child_bases[below], self.trie.child_deltas[below]
            first, end = unpack_offsets(bases, deltas, first), unpack_offsets(bases, deltas, end)
            codes[..., below] = widen(self.trie.tokens[below], first).int()
        alone = (end - first == 1) & (prefixes.nodes >= 0)
        whole = Prefixes(prefixes.scores, first.int(), prefixes.levels, prefixes.parents, codes)
        return whole.where(alone).best(torch.full_like(self._lost, -torch.inf))[0], prefixes.where(~alone)

    def _least(self) -> Tensor:
        """Float32 ``[b]``: the score of the k-th item that was found; -inf where there are fewer."""
        k, trie = self.plan.k, self.trie
        least = torch.full_like(self._lost, -torch.inf)
        self._whole = self._whole.best(least)[0]
        scores = self._whole.scores
        if trie.leaf_items.shape[0] == trie.num_rows or self._keep is not None:  # of a filtered row one may be left
            enough = torch.arange(scores.shape[1], device=scores.device).expand_as(scores) + 1 >= k
        else:
            rows = self._whole.nodes.clamp(min=0).long()
            ends = (unpack_offsets(trie.leaf_bases, trie.leaf_deltas, r) for r in (rows + 1, rows))
            enough = (next(ends) - next(ends)).cumsum(1) >= k
        if scores.shape[1]:
            least = scores.where(enough, -torch.inf).amax(1)
        self._whole = self._whole.best(least)[0]
        return least

    def _finish(self, least: Tensor) -> None:
        """The answers of those whose search is over, who then leave the session."""
        live = (self._open.nodes >= 0).any(1)
        spent = live & (self.expanded[self._users] >= self._budget)
        # Fewer than k items: down from level to level, as a beam search goes.
        dives = spent & (least == -torch.inf)
        self._diving = torch.where(dives, self._diving + 1, 0)
        over = (~live | spent & ~(dives & (self._diving < self._levels))) & ~self.finished[self._users]
        places = over.nonzero().squeeze(1)
        if places.numel():
            self._answer(places)
        going = ~self.finished[self._users]
        if not bool(going.any()):
            self._users = self._users[:0]
        elif 2 * int(going.sum()) <= going.numel():
            self._leave(going.nonzero().squeeze(1))

    def _answer(self, places: Tensor) -> None:
        users, whole, keep = self._users[places], self._whole.select(places), self._keep
        if keep is not None:
            keep = filter_of(self.trie, self.query.select(users))
        found = expand_rows(self.trie, whole.nodes, whole.codes, whole.scores, self.plan.k, keep)
        bound = self._lost[places]
        if self._open.scores.shape[1]:
            bound = torch.maximum(bound, self._open.scores[places].amax(1))
        for name, part in zip(("items", "codes", "scores"), found, strict=True):
            getattr(self._found, name)[users] = part
        self._found.bound[users] = bound
        self._found.exact[users] = proven(found[2], bound)
        self.finished[users] = True

    def _leave(self, places: Tensor) -> None:
        """Only these go on."""
        self._users, self._session = self._users[places], self._session.select(places)
        self._open, self._whole = self._open.select(places), self._whole.select(places)
        self._lost, self._diving = self._lost[places], self._diving[places]
        if self._keep is not None:
            self._keep = filter_of(self.trie, self.query.select(self._users))


def filter_of(trie: CatalogTrie, query: Query) -> TrieFilter | None:
    """What may appear; ``None``: everything."""
    if query.allowed is None and query.exclude is None:
        return None
    return trie_filter(trie, allowed=query.allowed, exclude=query.exclude)

"""The search of a target that a draft runs ahead of: the target's own beams, in fewer of its passes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.base.protocols import Session, TreeSession
from genrec_fast.decoders.read_rows import ReadRows, Slots, scores_at, written
from genrec_fast.decoders.trie_search import BEST, Rule, TrieSearch
from genrec_fast.nn.engine.plan import Found, Plan
from genrec_fast.ops.draft_verify import DraftBeams, draft_verify
from genrec_fast.ops.trie_filter import CatalogTrie
from genrec_fast.ops.trie_step import TrieStep, trie_step


@dataclass(frozen=True)
class Ahead:
    """A target's session and its draft's behind the same histories, of which ``DraftedSearch`` makes a search.

    Args:
        target: behind the prompts.
        draft: likewise; need not read trees.
        plan: the draft's, where it is extended by tokens; ``None``: by codes.
        drafts_per_beam: prefixes that are drafted for each beam of a level.
        num_levels: how many levels are drafted at once, at most; ``None``: all.
    """

    target: TreeSession
    draft: Session
    plan: Plan | None = None
    drafts_per_beam: int = 2
    num_levels: int | None = None

    def select(self, users: Tensor) -> Ahead:
        """Of users int64 ``[m]``."""
        return dataclasses.replace(self, target=self.target.select(users), draft=self.draft.select(users))


class DraftedSearch(TrieSearch):
    """A beam search whose every ``advance`` is one pass of the target, and as many levels as its draft foresaw.

    ::

        beams = the target's best of the first level, from what it read of the history
        until every level is searched:
            the draft searches on below the beams, N >= W prefixes a level
            the target reads, in one pass, those beams and drafts that it has not read
            while all W beams of a level were read: beams = the target's best below them

    A level is accepted where all of the target's own beams of it were drafted; the first that is not is known, but not
    read, and begins the next round. So beams, scores and bound are those of a ``TrieSearch`` of the target, whatever
    was drafted. Users go on by themselves, each from the level that it reached, and leave when they are at the end.

    Args:
        session: of target and draft.
        trie, plan, users, rule, widths: as ``TrieSearch``; one item per beam, no end token, no processor.
        in_one_call: not read: it never is.

    Attributes:
        passes: of the target, without the one that read the histories.
        read: int64 ``[B]``: rows that it read of each user.
        rounds: int64 ``[B]``: passes that each user took part in.
        accepted: int64 ``[B]``: levels that were gained beyond one a pass.

    Notes:
        ``extend_tree`` gives a row the bits that it has level by level on the native engine; torch's own products may
        round otherwise where their shapes differ.

    Source: AtSpeed (arXiv:2410.05165), section 3.1, strict; batched, uneven acceptance, rows that stay known and the
    first level without a draft are ours.
    """

    def __init__(
        self,
        session: Any,
        trie: CatalogTrie,
        plan: Plan,
        users: int,
        rule: Rule = BEST,
        widths: Tensor | None = None,
        in_one_call: bool = False,
    ) -> None:
        super().__init__(session.target, trie, plan, users, rule, widths, in_one_call=False)
        self._ahead, self._sizes = session, tuple(trie.codebook_sizes)
        # There are no more prefixes than edges.
        self._most = [min(plan.num_beams[level], trie.num_nodes(level + 1)) for level in range(len(self._sizes))]
        device = trie.device
        self.passes = 0
        self.read, self.rounds, self.accepted = (torch.zeros(users, dtype=torch.int64, device=device) for _ in range(3))
        self._users = torch.arange(users, device=device)
        """who is still searched"""
        self._keep, self._own = plan.keep, widths
        self._rows: ReadRows | None = None

    def advance(self) -> None:
        """The first level of all users, or the next pass of the target."""
        if self._rows is None:
            self._begin()
            self._verify()
        else:
            self._read_ahead()
            before = self._beams.levels
            self._verify()
            self.rounds[self._users] += 1
            self.accepted[self._users] += self._beams.levels - before - 1
        self._leave()

    def found(self) -> Found:
        """The beams behind the last level."""
        return Found(self.nodes, self.codes, self.scores, self.bound)

    def _begin(self) -> None:
        """Writes what stands before an item."""
        self._begin_item()
        self._rows = ReadRows.behind(self._tree(), self.plan, self._sizes, len(self.plan.prefix) + 1)
        self._draft, prompt = self._ahead.draft, torch.zeros(len(self._users), 1, dtype=torch.int64)
        for token in () if self._ahead.plan is None else self._ahead.plan.prefix:
            self._draft = self._draft.extend(torch.full_like(prompt, token), prompt)
        users, width, levels = len(self._users), max(self._most), len(self._sizes)
        missing = (0, width - 1)
        root = torch.full_like(self.nodes, self._rows.count - 1).long()
        self._beams = DraftBeams(
            torch.zeros(users, dtype=torch.int64, device=self.nodes.device),
            functional.pad(self.nodes, missing, value=-1),
            functional.pad(self.scores, missing, value=-torch.inf),
            self.codes.new_zeros(users, width, levels),
            functional.pad(root, missing),
            functional.pad(root, missing, value=-1),
            self.bound,
        )
        self.nodes, self.scores = self._beams.nodes.clone(), self._beams.scores.clone()
        self.codes, self.bound = self._beams.codes.clone(), self.bound.clone()

    def _tree(self) -> TreeSession:
        session = self._extended_session()
        assert isinstance(session, TreeSession)
        return session

    def _verify(self) -> None:
        """Goes down for as long as the target has read all of a user's beams."""
        assert self._rows is not None
        self._beams = draft_verify(
            self.trie,
            self._rows.verified(),
            self._beams,
            num_beams=self._most,
            normalize=self.plan.normalize,
            widths=self._own,
            allowed=self._keep,
        )

    def _read_ahead(self) -> None:
        """One pass of the target: over its beams and what the draft expects below them, where it has not read them."""
        rows, beams = self._rows, self._beams
        assert rows is not None
        width = beams.nodes.shape[1]
        last = beams.codes.gather(2, (beams.levels - 1).view(-1, 1, 1).expand(-1, width, 1)).squeeze(2)
        own = Slots(beams.nodes, torch.arange(width, device=last.device).expand_as(last), last)
        slots = [own, *self._drafted()]
        self._rows, numbers, count = rows.descend(slots, beams.above, beams.levels - 1, self.plan, self._sizes)
        self._beams = beams._replace(numbers=numbers[0])
        self.passes += 1
        self.read[self._users] += count

    def _drafted(self) -> list[Slots]:
        """What the draft expects below the beams of each user, level by level; the last level is not read."""
        beams, deepest = self._beams, len(self._sizes) - 1
        most = deepest if self._ahead.num_levels is None else min(deepest, self._ahead.num_levels)
        out: list[Slots] = []
        for level in beams.levels.unique().tolist():
            users = (beams.levels == level).nonzero().squeeze(1)
            for depth, slots in enumerate(self._draft_below(users, level, min(deepest, level + most))):
                if depth == len(out):
                    empty = torch.zeros(len(beams.levels), 0, dtype=torch.int64, device=users.device)
                    out.append(Slots(empty.int(), empty, empty.int()))
                out[depth] = _joined(out[depth], slots, users)
        return out

    def _draft_below(self, users: Tensor, level: int, last: int) -> list[Slots]:
        """The draft's search below the beams of some users, all at one level, down to another."""
        beams, out = self._beams.select(users), []
        if level >= last:
            return []
        plan = Plan(self.plan.num_beams) if self._ahead.plan is None else self._ahead.plan
        plan = dataclasses.replace(plan, normalize=self.plan.normalize)
        session, own = self._draft.select(users), torch.arange(beams.nodes.shape[1], device=users.device)
        for at in range(level):  # what the beams are, which the draft may not have looked at
            parents = (own if at else torch.zeros_like(own)).expand(len(users), -1)
            session = session.extend(written(plan, at, beams.codes[..., at]), parents)
        keep = None if self._keep is None else self._keep.select(users)
        nodes, scores = beams.nodes, beams.scores
        for at in range(level, last):
            logits, sums = scores_at(session, plan, at, self._sizes[at])
            width = min(self._ahead.drafts_per_beam * self._most[at], self.trie.num_nodes(at + 1))
            settings: dict[str, Any] = {"num_beams": width, "normalize": plan.normalize, "log_sums": sums}
            step = self._draft_step(users, at, logits, nodes, scores, allowed=keep, **settings)
            nodes, scores = step.nodes, step.scores
            out.append(Slots(nodes, step.parents.long(), step.codes))
            if at + 1 < last:
                session = session.extend(written(plan, at, step.codes), step.parents)
        return out

    def _draft_step(
        self, users: Tensor, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, **settings: Any
    ) -> TrieStep:
        """A level of the draft's search, for some of the users; as ``trie_step``."""
        return trie_step(self.trie, level, logits, nodes, scores, **settings)

    def _leave(self) -> None:
        """Who is at the end has his beams, and is searched no more."""
        beams, rows = self._beams, self._rows
        assert rows is not None
        over = beams.levels == len(self._sizes)
        if not bool(over.any()):
            return
        users = self._users[over]
        self.nodes[users], self.scores[users] = beams.nodes[over], beams.scores[over]
        self.codes[users], self.bound[users] = beams.codes[over], beams.bound[over]
        going = (~over).nonzero().squeeze(1)
        self._users = self._users[going]
        if not going.numel():
            self.item = self.plan.num_items
            return
        self._beams, self._rows, self._draft = beams.select(going), rows.select(going), self._draft.select(going)
        self._keep = None if self._keep is None else self._keep.select(going)
        self._own = None if self._own is None else self._own[going]


def _joined(all_slots: Slots, some: Slots, users: Tensor) -> Slots:
    """With the slots of some users."""
    missing = (0, max(0, some.codes.shape[1] - all_slots.codes.shape[1]))
    nodes = functional.pad(all_slots.nodes, missing, value=-1)
    out = Slots(nodes, functional.pad(all_slots.parents, missing), functional.pad(all_slots.codes, missing))
    for name in ("nodes", "parents", "codes"):
        part = getattr(some, name)
        getattr(out, name)[users, : part.shape[1]] = part
    return out

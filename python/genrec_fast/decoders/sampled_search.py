"""The sampled search of a target that a draft runs ahead of: AtSpeed's relaxed verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.decoders.drafted_search import DraftedSearch
from genrec_fast.decoders.noise import gumbel, prefixes, uniform
from genrec_fast.decoders.read_rows import Slots
from genrec_fast.decoders.sampled_beams import SampledBeams, Weighed, kept
from genrec_fast.decoders.trie_search import ordered
from genrec_fast.nn.engine.plan import Found, Plan
from genrec_fast.ops.draft_tree import draft_tree
from genrec_fast.ops.draft_verify import DraftBeams
from genrec_fast.ops.trie_step import TrieStep

_OWN, _DRAFT, _ACCEPT, _KEEP, _REST = range(5)  # what a prefix is drawn for


@dataclass(frozen=True)
class _Foreseen:
    """What a draft drew at one level for some users.

    Args:
        users: int64 ``[m]``, who.
        level: of the codes.
        nodes: int64 ``[m, C]``: every child of the draft's beams, ascending; behind the last a number above all.
        log_q: float64 ``[m, C]``: how likely each was to be drawn.
        drawn: bool ``[m, C]``.
    """

    users: Tensor
    level: int
    nodes: Tensor
    log_q: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, users: Tensor, level: int, weighed: Weighed, step: TrieStep) -> _Foreseen:
        nodes, order = weighed.nodes.where(weighed.nodes >= 0, torch.iinfo(torch.int64).max).sort(dim=1)
        place = torch.searchsorted(nodes, step.nodes.long().clamp(min=0)).clamp(max=nodes.shape[1] - 1)
        drawn = torch.zeros_like(nodes).scatter_add_(1, place, (step.nodes >= 0).long()) > 0
        return cls(users, level, nodes, weighed.log_p.gather(1, order), drawn)

    def select(self, users: Tensor) -> _Foreseen:
        """Of places int64 ``[n]`` among those."""
        return _Foreseen(self.users[users], self.level, self.nodes[users], self.log_q[users], self.drawn[users])

    def at(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Of nodes int64 ``[m, n]``: ``log_q``, -inf where the draft could not draw it, and ``drawn``."""
        place = torch.searchsorted(self.nodes, nodes.contiguous()).clamp(max=self.nodes.shape[1] - 1)
        same = self.nodes.gather(1, place) == nodes
        return self.log_q.gather(1, place).where(same, -torch.inf), self.drawn.gather(1, place) & same


class SampledSearch(DraftedSearch):
    """A search that draws its beams, every ``advance`` of which is one pass of the target.

    ::

        p, q = how likely target and draft are to draw a prefix: softmax of its score among the children of all beams
        the draft draws N >= W prefixes a level, below its own
        accept each of them with probability min(1, p / q)
        W or more are accepted: W of them, drawn evenly, are the beams; on to the next level, if it was drafted
        fewer: the rest is drawn from max(p - q, 0) without those that were accepted; here the round ends
        the level behind the last that was drafted is drawn from p

    Everything is drawn without replacement. A user's draws are a function of his seed and of the prefixes.

    Args:
        session, trie, plan, users, widths, in_one_call: as ``DraftedSearch``; no widths.
        rule: a ``SampledBeams``: the seeds.

    Notes:
        For one beam and one draft this is speculative sampling: whatever was drafted, every code is a draw from the
        target's softmax over the children of its prefix, which is not the softmax of whole items' scores. For more of
        either it is not: a draft's prefixes crowd where p and q agree. Where the draft is the target, with as many
        drafts as beams, every prefix is accepted, and the beams are those of ``SampledBeams`` alone. Where
        max(p - q, 0) has too few prefixes, those that are left follow by p.

    Source: AtSpeed (arXiv:2410.05165), relaxed sampling verification, as in its code (Linxyhaha/AtSpeed, commit
        93bc886); one beam: arXiv:2211.17192.
    """

    def __init__(self, session: Any, trie: Any, plan: Plan, users: int, rule: Any, *rest: Any, **named: Any) -> None:
        super().__init__(session, trie, plan, users, rule, *rest, **named)
        self._draws: SampledBeams = rule
        self._foreseen: list[_Foreseen] = []

    def found(self) -> Found:
        """The beams behind the last level, best first."""
        return ordered(super().found())

    def _drafted(self) -> list[Slots]:
        self._foreseen = []
        return super()._drafted()

    def _draft_step(
        self, users: Tensor, level: int, logits: Tensor, nodes: Tensor, scores: Tensor, **settings: Any
    ) -> TrieStep:
        """The draft's draw, remembered."""
        how = settings["normalize"], settings["log_sums"], settings["allowed"]
        weighed = Weighed.of(self.trie, level, logits, nodes, scores, *how)
        step = self._draws.select(self._users[users]).drawn(weighed, level, settings["num_beams"], _DRAFT)
        self._foreseen.append(_Foreseen.of(users, level, weighed, step))
        return step

    def _verify(self) -> None:
        """Draws level after level, for as long as what was drafted is accepted."""
        rows = self._rows
        assert rows is not None
        going = torch.ones(len(self._users), dtype=torch.bool, device=self._users.device)
        for level, size in enumerate(self._sizes):
            beams = self._beams
            here = going & (beams.levels == level) & ((beams.numbers >= 0) | (beams.nodes < 0)).all(1)
            if not bool(here.any()):
                continue
            users = here.nonzero().squeeze(1)
            logits, sums = rows.scores_of(beams.numbers.clamp(min=0), size)
            sums = None if sums is None else sums[users]
            keep = None if self._keep is None else self._keep.select(users)
            how = self.plan.normalize, sums, keep
            weighed = Weighed.of(self.trie, level, logits[users], beams.nodes[users], beams.scores[users], *how)
            step, going[users] = self._chosen(weighed, users, level)
            self._take(users, step, level)
        self._foreseen = []

    def _chosen(self, weighed: Weighed, users: Tensor, level: int) -> tuple[TrieStep, Tensor]:
        """The beams of a level for some users, and bool ``[m]``: whether all of them are accepted drafts."""
        draws, count = self._draws.select(self._users[users]), self._most[level]
        step = draws.drawn(weighed, level, count, _OWN)
        whole = torch.zeros_like(users, dtype=torch.bool)
        for foreseen in self._foreseen:
            if foreseen.level != level:
                continue
            place = torch.full_like(self._users, -1)
            place[foreseen.users] = torch.arange(len(foreseen.users), device=place.device)
            theirs = place[users]
            some = (theirs >= 0).nonzero().squeeze(1)
            found, whole[some] = _relaxed(
                weighed.select(some), foreseen.select(theirs[some]), draws.select(some), level, count
            )
            for part, new in zip(step, found, strict=True):
                part[some] = new
        return step, whole

    def _take(self, users: Tensor, step: TrieStep, level: int) -> None:
        """These are some users' beams."""
        rows, own = self._rows, self._beams.select(users)
        assert rows is not None
        missing = (0, own.nodes.shape[1] - step.nodes.shape[1])
        nodes, codes = functional.pad(step.nodes, missing, value=-1), functional.pad(step.codes, missing)
        parents = functional.pad(step.parents.long(), missing)
        read = rows.parents[users], rows.codes[users]
        (numbers,) = draft_tree(*read, own.numbers, own.levels, [nodes], [parents], [codes]).numbers
        above = own.numbers.gather(1, parents)
        path = own.codes.gather(1, parents.unsqueeze(2).expand(-1, -1, own.codes.shape[2])).clone()
        path[..., level] = codes
        new = DraftBeams(
            own.levels + 1,
            nodes,
            functional.pad(step.scores, missing, value=-torch.inf),
            path.where((nodes >= 0).unsqueeze(2), 0),
            above,
            numbers.where(numbers < rows.count, -1),
            step.bound,
        )
        self._beams = DraftBeams(*(part.clone() for part in self._beams))
        for part, theirs in zip(self._beams, new, strict=True):
            part[users] = theirs


def _relaxed(
    weighed: Weighed, foreseen: _Foreseen, draws: SampledBeams, level: int, count: int
) -> tuple[TrieStep, Tensor]:
    """Beams of a level that was drafted, and whether enough was accepted, bool ``[m]``."""

    def named(purpose: int) -> Tensor:
        return prefixes(weighed.nodes, level, purpose)

    log_p, possible = weighed.log_p, weighed.log_p > -torch.inf
    log_q, drawn = foreseen.at(weighed.nodes)
    accepted = drawn & possible & (uniform(draws.seeds, named(_ACCEPT)).log() <= log_p - log_q)
    enough = accepted.sum(1) >= possible.sum(1).clamp(max=count)
    rest = (log_p.exp() - log_q.exp()).clamp(min=0).where(~accepted, 0.0)
    noise = gumbel(draws.seeds, named(_REST))
    others = torch.where(rest > 0, rest.log(), log_p) + noise
    keys = torch.where(accepted, gumbel(draws.seeds, named(_KEEP)), others)
    tiers = torch.where(accepted, 2, torch.where(rest > 0, 1, possible.long() - 1))
    return kept(weighed, keys, tiers, count), enough

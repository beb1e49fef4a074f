"""The search over a trie: level by level a rule chooses which prefixes live, whatever network extends them."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from genrec_fast.base.batch import Ranked, proven
from genrec_fast.base.protocols import Session
from genrec_fast.nn.engine.plan import Found, Plan
from genrec_fast.ops.expand_rows import expand_rows
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter
from genrec_fast.ops.trie_offsets import unpack_offsets
from genrec_fast.ops.trie_step import TrieStep, trie_step


class Rule(Protocol):
    """Which children of a level's beams survive, and in what order the beams stand in the end; for one search."""

    plain: ClassVar[bool]
    """whether it is ``trie_step`` itself, which an engine may run for a whole search"""

    @property
    def ranks(self) -> Tensor | None:
        """Float ``[B, W]``: what the beams are ordered by; ``None``: their scores."""
        ...

    def choose(
        self,
        trie: CatalogTrie,
        level: int,
        logits: Tensor,
        nodes: Tensor,
        scores: Tensor,
        *,
        num_beams: int,
        normalize: str,
        log_sums: Tensor | None = None,
        allowed: TrieFilter | None = None,
    ) -> TrieStep:
        """As ``ops.trie_step``."""
        ...

    def finish(self, found: Found, *, paid_end: bool) -> Found:
        """The beams in their order; ``paid_end``: scores have changed since they were chosen."""
        ...


class Best:
    """The best scores: beam search."""

    plain: ClassVar[bool] = True
    ranks: None = None
    choose = staticmethod(trie_step)

    def finish(self, found: Found, *, paid_end: bool) -> Found:
        """Best first."""
        return ordered(found) if paid_end else found


BEST = Best()


def ordered(found: Found) -> Found:
    """Beams by score, the highest first; ties as they stood."""
    scores, order = found.scores.sort(dim=1, descending=True, stable=True)

    def moved(part: Tensor) -> Tensor:
        return part.gather(1, order.unsqueeze(2).expand(-1, -1, part.shape[2]))

    tokens = None if found.tokens is None else moved(found.tokens)
    return Found(found.rows.gather(1, order), moved(found.codes), scores, found.bound, tokens)


class TrieSearch:
    """One search over a trie, a level at a time.

    ::

        for item, for level:
            logits = session.scores(...); keep the best prefixes (the rule); bound = max(bound, best that was not kept)
            session = session.extend(codes, parents)

    A prefix never scores below what follows it, so the best pruned prefix bounds every item that was lost. Where the
    engine can, all of it is one call (``Session.search``), with the same bits.

    Args:
        session: behind the users' prompts.
        trie: the catalog.
        plan: what is searched for.
        rule: which beams live.
        users: B.
        widths: int64 ``[B]``: each user's own number of beams, at most the plan's; beams beyond it are cut after each
            level, and the best of them counts in the bound. ``None``: the plan's.
        in_one_call: whether the engine may run all of it, where it can.
    """

    def __init__(
        self,
        session: Session,
        trie: CatalogTrie,
        plan: Plan,
        users: int,
        rule: Rule = BEST,
        widths: Tensor | None = None,
        in_one_call: bool = True,
    ) -> None:
        built = hasattr(trie, "tokens")  # not one that items were appended to, which no engine reads
        self.in_one_call = in_one_call and rule.plain and widths is None and built
        self.session, self.trie, self.plan, self.rule, self.widths = session, trie, plan, rule, widths
        device = trie.device
        self.level = self.item = 0
        self.nodes = torch.zeros(users, 1, dtype=torch.int32, device=device)
        self.scores = torch.zeros(users, 1, dtype=torch.float32, device=device)
        self.bound = torch.full((users,), -torch.inf, dtype=torch.float32, device=device)
        self.codes = torch.empty(users, 1, 0, dtype=torch.int32, device=device)
        self.written = torch.empty(users, 1, 0, dtype=torch.int64, device=device)
        self._next: tuple[Tensor, Tensor] | None = None  # what the session is to be extended by
        self._below = _rows_below(trie) if plan.num_items > 1 else []

    @property
    def done(self) -> bool:
        """Whether every level of every item was searched."""
        return self.item == self.plan.num_items

    def run(self) -> TrieSearch:
        """Itself, at the end."""
        while not self.done:
            self.advance()
        return self

    def found(self) -> Found:
        """The beams behind the last level."""
        tokens = None if self.plan.tokens is None else self.written
        found = Found(self.nodes, self.codes, self.scores, self.bound, tokens)
        return self.rule.finish(found, paid_end=self.plan.end_token is not None)

    def behind(self) -> Session:
        """The session behind all that was written, the last code too: beams as ``found`` has them before its rule."""
        return self._extended_session()

    def ranked(self, k: int) -> Ranked:
        """The k best items of each user."""
        found, ranks = self.found(), self.rule.ranks
        items, codes, scores = expand_rows(self.trie, found.rows, found.codes, found.scores, k, self.plan.keep, ranks)
        return Ranked(items, codes, scores, proven(scores, found.bound), found.bound)

    def advance(self) -> None:
        """Searches the next level."""
        if self.level == 0:
            self._begin_item()
            at_once = self.in_one_call and not self.item
            if at_once and self._searched(self.session.search(self.trie, self.plan, self.scores)):
                return
        plan, level, last = self.plan, self.level, self.level + 1 == len(self.trie.codebook_sizes)
        logits, scores, log_sums = self._level_scores()
        edges = self.trie.num_nodes(level + 1)  # there are no more prefixes than that behind one item
        most = edges if plan.num_items == 1 else edges * self.nodes.shape[1]
        step = self.rule.choose(
            self.trie,
            level,
            logits,
            self.nodes,
            scores,
            num_beams=min(plan.num_beams[level], most),
            normalize=plan.normalize,
            log_sums=log_sums,
            allowed=plan.keep,
        )
        if self.widths is not None:
            step = cut(step, self.widths)
        parents = step.parents.long()
        self.nodes, self.scores, self.bound = step.nodes, step.scores, torch.maximum(self.bound, step.bound)
        self.codes = _extended(self.codes, step.codes, parents)
        self._next = (step.codes, step.parents)
        if plan.tokens is not None:
            chosen = plan.tokens.written(level, step.codes)
            self.written, self._next = _extended(self.written, chosen, parents), (chosen, parents)
        self.level = 0 if last else level + 1
        self.item += last
        if self.done and plan.end_token is not None and plan.normalize == "all":
            self._pay(plan.end_token)
            self.scores = torch.where(self.nodes >= 0, self.scores, -torch.inf)

    def _begin_item(self) -> None:
        """Writes the prefix."""
        plan = self.plan
        for token in plan.prefix:
            if plan.normalize == "all":
                self._pay(token)
            users, beams = self.scores.shape
            numbers = torch.arange(beams, device=self.scores.device).expand(users, -1)
            forced = torch.full_like(numbers, token), numbers
            self.session, self.written = self._extended_session().extend(*forced), _extended(self.written, *forced)
        self.nodes = torch.where(self.scores > -torch.inf, 0, -1).int()
        self.codes = self.codes.new_empty(*self.scores.shape, 0)

    def _searched(self, found: Found | None) -> bool:
        """Whether the engine searched the whole item by itself; if so, what it found stands here."""
        if found is None:
            return False
        self.nodes, self.codes, self.scores, self.bound = found.rows, found.codes, found.scores, found.bound
        if found.tokens is not None:
            self.written = torch.cat([self.written.expand(-1, found.tokens.shape[1], -1), found.tokens], 2)
        self.item = self.plan.num_items
        return True

    def _extended_session(self) -> Session:
        """The session behind all that was written."""
        if self._next is not None:
            self.session, self._next = self.session.extend(*self._next), None
        return self.session

    def _level_scores(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits of the level's codes, scores so far, and what is to be subtracted (``None``: of these logits)."""
        session, plan, level = self._extended_session(), self.plan, self.level
        if plan.tokens is None:
            return session.scores()[0], self.scores, None
        allowed = None
        if plan.processor is not None:
            trie: Any = self.trie
            codes = trie.valid_codes(level, self.nodes.flatten().clamp(min=0))
            allowed = (codes & (plan.tokens.of[level] >= 0)).view(*self.nodes.shape, -1)
        pays = plan.normalize == "all"
        logits, sums = self._log_probabilities(plan.tokens.span(level), pays, allowed)
        if self.item:
            logits = self._without_repeats(logits)
        if not pays or plan.processor is None:
            return logits, self.scores, sums if pays else None
        # What is processed may rise above 0, and log_sums may not be below a logit: the level's own sum, which
        # trie_step takes away, is added first.
        here = logits.logsumexp(-1)
        self.nodes = torch.where(here > -torch.inf, self.nodes, -1)
        return logits, torch.where(here > -torch.inf, self.scores + (here - sums), -torch.inf), None

    def _log_probabilities(
        self, tokens: Tensor | slice, log_sums: bool = True, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores ``[B, W, K]`` of tokens up to a number per beam ``[B, W]``, which is to be subtracted.

        A processor sees -inf wherever a token is not ``allowed`` (bool ``[B, W, K]``; ``None``: all K are).
        """
        session, processor = self._extended_session(), self.plan.processor
        span = tokens if processor is None else slice(None)
        logits, sums = session.scores(span, log_sums=log_sums or processor is not None)
        sums = torch.zeros_like(self.scores) if sums is None else sums
        if processor is None:
            return logits, sums
        wide = logits - sums.unsqueeze(-1)
        index = torch.arange(tokens.start, tokens.stop) if isinstance(tokens, slice) else tokens
        index = index.to(wide.device)
        open_to = wide.new_ones(1, dtype=torch.int8) if allowed is None else allowed.to(torch.int8)
        seen = torch.zeros_like(wide, dtype=torch.int8)  # added up: a code without a token has another code's
        seen.index_add_(2, index, open_to.expand(*wide.shape[:2], index.numel()))
        masked = wide.where(seen > 0, -torch.inf)
        processed = processor(self.written.flatten(0, 1), masked.flatten(0, 1)).view(logits.shape).float()
        return processed[..., tokens], torch.zeros_like(sums)

    def _pay(self, token: int) -> None:
        """Every beam pays for the same token."""
        logits, sums = self._log_probabilities(torch.tensor([token]))
        self.scores = self.scores + (logits[..., 0] - sums)

    def _without_repeats(self, logits: Tensor) -> Tensor:
        """-inf for codes below which a beam has used up every item."""
        tokens, written, level, levels = self.plan.tokens, self.written, self.level, len(self.trie.codebook_sizes)
        assert tokens is not None
        logits, before, below = logits.clone(), len(self.plan.prefix), self._below[level]
        begins = [earlier * (before + levels) + before for earlier in range(self.item + 1)]
        paths = [tokens.decode(written[..., at : at + levels]) for at in begins]
        used = torch.stack([path[..., : level + 1] for path in paths[:-1]], 2)
        mine = paths[-1].unsqueeze(2) if level else used[..., :0]
        here = (used[..., :level] == mine).all(-1)  # [B, W, earlier items]: their path is the beam's
        same = (used.unsqueeze(3) == used.unsqueeze(2)).all(-1).sum(-1)  # how many of them share the next code too
        trie: Any = self.trie
        edges = trie.lookup(used.contiguous()).long()
        user, beam, earlier = (here & (edges >= 0) & (below[edges.clamp(min=0)] <= same)).nonzero(as_tuple=True)
        logits[user, beam, used[user, beam, earlier, level]] = -torch.inf
        return logits


def _extended(written: Tensor, chosen: Tensor, parents: Tensor) -> Tensor:
    """``[B, W, t + 1]``: what the parents wrote ``[B, W', t]``, and one more behind it."""
    before = written.gather(1, parents.unsqueeze(2).expand(-1, -1, written.shape[2]))
    return torch.cat([before, chosen.unsqueeze(2)], 2)


def cut(step: TrieStep, widths: Tensor) -> TrieStep:
    """What a search of each user's own width would have kept."""
    kept = torch.arange(step.scores.shape[1], device=step.scores.device) < widths.unsqueeze(1)
    best = step.scores.where(~kept, -torch.inf).amax(1)
    scores, nodes = step.scores.where(kept, -torch.inf), step.nodes.where(kept, -1)
    return TrieStep(scores, step.codes, step.parents, nodes, torch.maximum(step.bound, best))


def _rows_below(trie: CatalogTrie) -> list[Tensor]:
    """Per level int64 ``[edges]``: semantic IDs that begin with the path to each edge."""
    out = [torch.ones(trie.num_rows, dtype=torch.int64, device=trie.device)]
    for level in range(len(trie.codebook_sizes) - 1, 0, -1):
        nodes = torch.arange(trie.tokens[level - 1].numel() + 1, device=trie.device)
        ends = unpack_offsets(trie.child_bases[level], trie.child_deltas[level], nodes).long()
        sums = torch.nn.functional.pad(out[0].cumsum(0), (1, 0))
        out.insert(0, sums[ends[1:]] - sums[ends[:-1]])
    return out

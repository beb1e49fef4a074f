"""Every row that a target has read of a search, and the logits behind it: what was read once is looked up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.base.protocols import Session, TreeSession
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.ops.draft_tree import draft_tree
from genrec_fast.ops.draft_verify import DraftRows


def scores_at(session: Session, plan: Plan, level: int, size: int) -> tuple[Tensor, Tensor | None]:
    """Logits ``[B, W, K]`` of a level's codes behind the rows of the last call, and what is to be subtracted.

    Args:
        session: extended by codes, or by tokens where the plan has some.
        plan: what is searched for.
        level: that of the rows' next code; rows at other levels give logits without a meaning.
        size: K, of its codebook.

    Returns:
        Logits, and the log-sum-exp over the vocabulary ``[B, W]`` where the plan pays for it; else ``None``.
    """
    if plan.tokens is None:
        return session.scores()[0][..., :size].contiguous(), None
    logits, sums = session.scores(plan.tokens.span(level), log_sums=plan.normalize == "all")
    return logits, sums if plan.normalize == "all" else None


def written(plan: Plan, level: int, codes: Tensor) -> Tensor:
    """What a session is extended by for codes of a level: themselves, or their tokens."""
    return codes if plan.tokens is None else plan.tokens.written(level, codes)


@dataclass(frozen=True)
class Slots:
    """Prefixes of one level for each user, levels below each other; ``[B, n]`` each.

    Args:
        nodes: int32: of the trie; -1: no prefix.
        parents: int64: slots of the level above.
        codes: int32: the last code.
    """

    nodes: Tensor
    parents: Tensor
    codes: Tensor


@dataclass(frozen=True)
class ReadRows:
    """A tree session, and of each of its rows what it wrote, behind which row, and the logits of its next level.

    Args:
        session: behind all of them.
        parents: int64 ``[B, R]``: the number of the row that each extends.
        codes: int32 ``[B, R]``: the code that each wrote; -1 where that is none, or nobody may look the row up.
        logits: float32 ``[B, R, K]`` of each row's next level, -inf behind its last code.
        sums: float32 ``[B, R]``: what is to be subtracted; ``None``: the log-sum-exp of the logits themselves.
    """

    session: TreeSession
    parents: Tensor
    codes: Tensor
    logits: Tensor
    sums: Tensor | None

    @classmethod
    def behind(cls, session: TreeSession, plan: Plan, sizes: Sequence[int], rows: int) -> ReadRows:
        """Behind prompts of one row per user, number ``rows - 1``, at the first level."""
        logits, sums = scores_at(session, plan, 0, sizes[0])
        users = len(logits)
        whole = functional.pad(logits, (0, max(sizes) - logits.shape[2], rows - 1, 0), value=-torch.inf)
        return cls(
            session,
            torch.zeros(users, rows, dtype=torch.int64, device=logits.device),
            torch.full((users, rows), -1, dtype=torch.int32, device=logits.device),
            whole,
            None if sums is None else functional.pad(sums, (rows - 1, 0)),
        )

    @property
    def count(self) -> int:
        """R."""
        return self.codes.shape[1]

    def read(self, codes: Tensor, parents: Tensor, levels: Tensor, plan: Plan, sizes: Sequence[int]) -> ReadRows:
        """With more rows, in one pass of the target.

        Args:
            codes: int32 ``[B, n]``, -1 in a slot without a row, which costs as much as one.
            parents: int64 ``[B, n]``: the numbers of the rows above, those of this very call's earlier rows included.
            levels: int64 ``[B, n]``: that of each row's code.
            plan: what is searched for.
            sizes: of the codebooks.
        """
        live, tokens = codes >= 0, codes.clamp(min=0).long()
        if plan.tokens is not None:
            tokens = torch.full_like(tokens, int(plan.tokens.known[0][0]))
            for level in levels[live].unique().tolist():
                here = live & (levels == level)
                tokens[here] = plan.tokens.written(level, codes[here]).long()
        session = self.session.extend_tree(tokens, parents.where(live, 0))
        logits = self.logits.new_full((*codes.shape, max(sizes)), -torch.inf)
        sums = None if self.sums is None else torch.zeros_like(logits[..., 0])
        if plan.tokens is None:
            found = session.scores()[0]
            logits[..., : found.shape[2]] = found
        else:
            for level in (levels[live] + 1).unique().tolist():
                here = live & (levels + 1 == level)
                some, of = scores_at(session, plan, level, sizes[level])
                logits[..., : sizes[level]] = some.where(here.unsqueeze(2), logits[..., : sizes[level]])
                sums = None if sums is None or of is None else of.where(here, sums)
        return ReadRows(
            session,
            torch.cat([self.parents, parents], 1),
            torch.cat([self.codes, codes], 1),
            torch.cat([self.logits, logits], 1),
            None if sums is None or self.sums is None else torch.cat([self.sums, sums], 1),
        )

    def descend(
        self, slots: Sequence[Slots], above: Tensor, levels: Tensor, plan: Plan, sizes: Sequence[int]
    ) -> tuple[ReadRows, list[Tensor], Tensor]:
        """With all prefixes of some levels that were not read yet, in one pass of the target, or none.

        Args:
            slots: level below level.
            above: int64 ``[B, n]``: rows, by their numbers, that the first level's ``parents`` stand for.
            levels: int64 ``[B]``: of the first level's codes; users need not stand at the same one.
            plan: what is searched for.
            sizes: of the codebooks.

        Returns:
            The rows, of each level the numbers int64 ``[B, n]`` of its slots (-1: not live), and how many rows were
            read of each user, int64 ``[B]``.
        """
        below = [some.nodes for some in slots], [some.parents for some in slots], [some.codes for some in slots]
        tree = draft_tree(self.parents, self.codes, above, levels, *below)
        rows = self
        if tree.codes.shape[1]:
            rows = self.read(tree.codes, tree.parents, tree.levels, plan, sizes)
        return rows, list(tree.numbers), tree.counts

    def verified(self) -> DraftRows:
        """What ``draft_verify`` reads of them."""
        return DraftRows(self.parents, self.codes, self.logits, self.sums)

    def scores_of(self, numbers: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, n, size]`` and sums ``[B, n]`` of rows by their numbers."""
        user = torch.arange(len(numbers), device=numbers.device).unsqueeze(1)
        return self.logits[user, numbers, :size].contiguous(), None if self.sums is None else self.sums[user, numbers]

    def select(self, users: Tensor) -> ReadRows:
        """Of some users, int64 ``[m]``."""
        return dataclasses.replace(
            self,
            session=self.session.select(users),
            parents=self.parents[users],
            codes=self.codes[users],
            logits=self.logits[users],
            sums=None if self.sums is None else self.sums[users],
        )

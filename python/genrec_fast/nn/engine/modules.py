"""A search run by torch's modules: what every row's tokens left in each layer is kept, and beams look it up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.base.protocols import TreeSession
from genrec_fast.nn.branches import Seen
from genrec_fast.nn.engine.rows import Rows, level_scores
from genrec_fast.nn.packed import Packing
from genrec_fast.ops.beam_attention import runs_on_card

KeysValues = tuple[Tensor, Tensor]


class Decodes(Protocol):
    """A network that writes semantic IDs, as a ``ModuleSession`` runs it."""

    codebook_sizes: tuple[int, ...]

    def embed_codes(self, codes: Tensor, level: int) -> Tensor:
        """``[R, D]`` of int64 codes ``[R]`` of a level, as the row behind them reads them."""
        ...

    def decode(self, x: Tensor, rows: Packing, prompts: tuple[KeysValues, ...], offsets: Tensor | None) -> Tensor:
        """Hidden rows ``[R, D]``, each a row of its own over ``rows.past`` and, where it has one, its user's prompt.

        Args:
            x: ``[R, D]``, equally many for each user.
            rows: R rows of one token; ``rows.past`` joins what they see.
            prompts: per layer keys and values ``[T, H, D]`` of the prompts.
            offsets: int64 ``[B + 1]`` of the prompts' tokens.
        """
        ...

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """``[R, K_l]`` of the level."""
        ...


@dataclass(frozen=True)
class ModuleSession(TreeSession):
    """A search over torch's modules (``TreeSession``).

    Args:
        model: what runs it.
        prompts: per layer keys and values ``[T, H, D]`` that all rows of a user see beside their own.
        offsets: int64 ``[B + 1]`` of the T tokens; ``None``: there are no such prompts.
        hidden: ``[B, W, D]`` of the rows of the last call.
        known: per layer keys and values ``[B, N, H, D]`` of the rows of all calls, call by call.
        paths: int64 ``[B, W, t]``: which of its user's rows each row of the last call sees, from the root to itself; -1
            behind a row's last.
        parents: int64 ``[B, W]`` of every call: beams of the call before.
        branches: int32 ``[B, N]``: which row each extends, -1 for the root, where ``ops.beam_attention`` runs on a
            card; ``None``: what each row sees is gathered.
        rows: once a call made a tree, which rows descend from which.
    """

    finite: ClassVar[bool] = True

    model: Decodes
    prompts: tuple[KeysValues, ...]
    offsets: Tensor | None
    hidden: Tensor
    known: tuple[KeysValues, ...]
    paths: Tensor
    parents: tuple[Tensor, ...] = ()
    branches: Tensor | None = None
    rows: Rows | None = None

    @classmethod
    def begin(
        cls, model: Decodes, x: Tensor, prompts: tuple[KeysValues, ...] = (), offsets: Tensor | None = None
    ) -> ModuleSession:
        """Behind the prompts stands one row per user, ``x [B, D]``, from which the first code is read."""
        paths = torch.zeros(len(x), 1, 1, dtype=torch.int64, device=x.device)
        branches = torch.full((len(x), 1), -1, dtype=torch.int32, device=x.device) if runs_on_card(x) else None
        nothing = cls(model, prompts, offsets, x.unsqueeze(1), (), paths, branches=branches)
        return nothing._run(x, paths, torch.ones(len(x), dtype=torch.int64, device=x.device))

    def scores(self, span: object = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K_l]`` of each row's next level; no sums."""
        sizes = self.model.codebook_sizes
        if self.rows is not None:
            return level_scores(self._logits_of, self.rows.paths()[1], sizes)
        level = self.paths.shape[2] - 1
        logits = self.model.logits(self.hidden.flatten(0, 1), level)
        return logits.view(*self.hidden.shape[:2], sizes[level]), None

    def extend(self, codes: Tensor, parents: Tensor) -> ModuleSession:
        """Every beam by a code: int ``[B, W]`` each."""
        if self.rows is not None:
            return self.extend_tree(codes, parents + self.rows.first_of_last)
        users, beams = codes.shape
        parents, level = parents.long(), self.paths.shape[2] - 1
        known = 1 + sum(call.shape[1] for call in self.parents)
        made = torch.arange(known, known + beams, device=self.paths.device).view(1, beams, 1)
        before = self.paths.gather(1, parents.unsqueeze(2).expand(-1, -1, level + 1))
        paths = torch.cat([before, made.expand(users, -1, -1)], 2)
        numbers = parents + (known - self.paths.shape[1])
        x = self.model.embed_codes(codes.flatten().long(), level)
        lengths = torch.full((users * beams,), level + 2, device=paths.device)
        after = dataclasses.replace(self, branches=self._branched(numbers))._run(x, paths, lengths)
        return dataclasses.replace(after, parents=(*self.parents, parents))

    def extend_tree(self, codes: Tensor, parents: Tensor) -> ModuleSession:
        """Rows at different depths in one pass: int ``[B, W]`` codes, and numbers of the rows that they extend.

        Raises:
            InvalidValueError: a parent that is no row made before.
        """
        users, beams = codes.shape
        rows = (Rows.of(users, self.parents) if self.rows is None else self.rows).grown(parents.long())
        numbers, depths = rows.paths()
        own = (torch.arange(beams) + rows.first_of_last).view(1, beams, 1).expand(users, -1, -1)
        paths = torch.nn.functional.pad(numbers, (0, 1), value=-1).scatter(2, depths.unsqueeze(2), own)
        paths = paths.to(self.paths.device)
        levels, order = (depths - 1).flatten().sort(stable=True)
        flat = codes.flatten().long()[order.to(codes.device)]
        present, counts = levels.unique_consecutive(return_counts=True)
        parts = [
            self.model.embed_codes(some, level)
            for level, some in zip(present.tolist(), flat.split(counts.tolist()), strict=True)
        ]
        x = torch.cat(parts)[order.argsort().to(flat.device)]
        after = dataclasses.replace(self, rows=rows, branches=self._branched(parents.to(paths.device)))
        return after._run(x, paths, (depths + 1).flatten().to(paths.device))

    def select(self, users: Tensor) -> ModuleSession:
        """The session of users int64 ``[m]``; keys and values are copied, nothing is computed."""
        count = len(self.hidden)
        users = users.to(self.paths.device)
        if users.numel() == count and torch.equal(users, torch.arange(count, device=users.device)):
            return self
        prompts, offsets = self.prompts, None
        if self.offsets is not None:
            at = Jagged(prompts[0][0], self.offsets).positions(users)
            prompts, offsets = tuple((keys[at.values], values[at.values]) for keys, values in prompts), at.offsets
        return dataclasses.replace(
            self,
            prompts=prompts,
            offsets=offsets,
            hidden=self.hidden[users],
            known=tuple((keys[users], values[users]) for keys, values in self.known),
            paths=self.paths[users],
            parents=tuple(call[users] for call in self.parents),
            branches=None if self.branches is None else self.branches[users],
            rows=None if self.rows is None else self.rows.select(users.cpu()),
        )

    def _run(self, x: Tensor, paths: Tensor, lengths: Tensor) -> ModuleSession:
        users, beams, longest = paths.shape
        past = Seen(self.known, paths, lengths, self.branches, equal=self.rows is None)
        packing = Packing(
            torch.arange(users * beams + 1, device=x.device),
            lengths - 1,
            longest,
            past=past,
            kv_offsets=offsets_of(lengths),
        )
        hidden = self.model.decode(x, packing, self.prompts, self.offsets)
        return dataclasses.replace(
            self, hidden=hidden.view(users, beams, hidden.shape[-1]), known=past.known, paths=paths
        )

    def _branched(self, parents: Tensor) -> Tensor | None:
        """With the rows of another call: the numbers of those that they extend."""
        return None if self.branches is None else torch.cat([self.branches, parents.int()], 1)

    def _logits_of(self, at: Tensor, level: int) -> Tensor:
        return self.model.logits(self.hidden[at.to(self.hidden.device)], level)

"""A search run by torch's modules: what every row's tokens left in each layer is kept, and beams look it up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.base.protocols import TreeSession
from genrec_fast.nn.engine.rows import Rows, level_scores
from genrec_fast.nn.packed import Packing

__all__ = ["Decodes", "ModuleSession", "Seen"]

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


class Seen:
    """What each row sees of what was made before, and of itself (``nn.packed.Past``).

    Args:
        known: per layer keys and values ``[N, H, D]`` of all rows made before this call.
        seen: int64 ``[V]``: the rows that each row of this call sees, end to end; those of this call from N on.
        lengths: int64 ``[R]``: how many each of them sees.
    """

    def __init__(self, known: tuple[KeysValues, ...], seen: Tensor, lengths: Tensor) -> None:
        self.before, self.seen, self.lengths = known, seen, lengths
        self.known: tuple[KeysValues, ...] = ()

    def join_times(self, times: Tensor) -> Tensor:
        """Codes have no times."""
        return times

    def join(self, layer: int, keys: Tensor, values: Tensor) -> KeysValues:
        """Layers come in their order."""
        if self.before:
            old_keys, old_values = self.before[layer]
            keys, values = torch.cat([old_keys, keys]), torch.cat([old_values, values])
        self.known = (*self.known, (keys, values))
        return keys[self.seen], values[self.seen]


@dataclass(frozen=True)
class ModuleSession(TreeSession):
    """A search over torch's modules (``TreeSession``).

    Args:
        model: what runs it.
        prompts: per layer keys and values ``[T, H, D]`` that all rows of a user see beside their own.
        offsets: int64 ``[B + 1]`` of the T tokens; ``None``: there are no such prompts.
        hidden: ``[B, W, D]`` of the rows of the last call.
        known: per layer keys and values ``[N, H, D]`` of the rows of all calls, call by call, user by user.
        paths: int64 ``[B, W, t]``: which of the N rows each row of the last call sees, from the root to itself; -1
            behind a row's last.
        parents: int64 ``[B, W]`` of every call: beams of the call before.
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
    rows: Rows | None = None

    @classmethod
    def begin(
        cls, model: Decodes, x: Tensor, prompts: tuple[KeysValues, ...] = (), offsets: Tensor | None = None
    ) -> ModuleSession:
        """Behind the prompts stands one row per user, ``x [B, D]``, from which the first code is read."""
        paths = torch.arange(len(x), device=x.device).view(-1, 1, 1)
        nothing = cls(model, prompts, offsets, x.unsqueeze(1), (), paths)
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
        made = torch.arange(users * beams, device=self.paths.device).view(users, beams, 1)
        before = self.paths.gather(1, parents.unsqueeze(2).expand(-1, -1, level + 1))
        paths = torch.cat([before, made + sum(call.numel() for call in self.parents) + users], 2)
        x = self.model.embed_codes(codes.flatten().long(), level)
        lengths = torch.full((users * beams,), level + 2, device=paths.device)
        after = self._run(x, paths, lengths)
        return dataclasses.replace(after, parents=(*self.parents, parents))

    def extend_tree(self, codes: Tensor, parents: Tensor) -> ModuleSession:
        """Rows at different depths in one pass: int ``[B, W]`` codes, and numbers of the rows that they extend.

        Raises:
            InvalidValueError: a parent that is no row made before.
        """
        users, beams = codes.shape
        rows = (Rows.of(users, self.parents) if self.rows is None else self.rows).grown(parents.long())
        numbers, depths = rows.paths()
        calls, places = rows.calls(numbers)
        first = torch.tensor(rows.widths).cumsum(0) - torch.tensor(rows.widths)
        paths = torch.nn.functional.pad((first[calls] * users + places).where(numbers >= 0, -1), (0, 1), value=-1)
        own = torch.arange(users * beams).view(users, beams, 1) + rows.first_of_last * users
        paths = paths.scatter(2, depths.unsqueeze(2), own).to(self.paths.device)
        levels, order = (depths - 1).flatten().sort(stable=True)
        flat = codes.flatten().long()[order.to(codes.device)]
        present, counts = levels.unique_consecutive(return_counts=True)
        parts = [
            self.model.embed_codes(some, level)
            for level, some in zip(present.tolist(), flat.split(counts.tolist()), strict=True)
        ]
        x = torch.cat(parts)[order.argsort().to(flat.device)]
        return dataclasses.replace(self, rows=rows)._run(x, paths, (depths + 1).flatten().to(paths.device))

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
        widths = [1, *(call.shape[1] for call in self.parents)] if self.rows is None else list(self.rows.widths)
        numbers = torch.arange(sum(widths) * count, device=users.device).split([width * count for width in widths])
        kept = torch.cat([call.view(count, -1)[users].flatten() for call in numbers])
        moved = torch.full((sum(widths) * count,), -1, device=users.device)
        moved[kept] = torch.arange(kept.numel(), device=users.device)
        paths = self.paths[users]
        return dataclasses.replace(
            self,
            prompts=prompts,
            offsets=offsets,
            hidden=self.hidden[users],
            known=tuple((keys[kept], values[kept]) for keys, values in self.known),
            paths=moved[paths.clamp(min=0)].where(paths >= 0, -1),
            parents=tuple(call[users] for call in self.parents),
            rows=None if self.rows is None else self.rows.select(users.cpu()),
        )

    def _run(self, x: Tensor, paths: Tensor, lengths: Tensor) -> ModuleSession:
        users, beams, longest = paths.shape
        seen = paths.flatten()
        past = Seen(self.known, seen if self.rows is None else seen[seen >= 0], lengths)
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

    def _logits_of(self, at: Tensor, level: int) -> Tensor:
        return self.model.logits(self.hidden[at.to(self.hidden.device)], level)

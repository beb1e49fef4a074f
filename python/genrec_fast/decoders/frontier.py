"""The prefixes that a best-first search may still extend: a list for each user, the best first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefixes:
    """Some prefixes of each user; a slot without one has score -inf and node -1.

    Args:
        scores: float32 ``[B, P]``.
        nodes: int32 ``[B, P]``: of the trie, within the level that follows the prefix; of a whole semantic ID its row.
        levels: int64 ``[B, P]``: how many codes were written.
        parents: int64 ``[B, P]``: the number of the session's row behind all but the last code.
        codes: int32 ``[B, P, L]``: what was written, 0 behind it.
    """

    scores: Tensor
    nodes: Tensor
    levels: Tensor
    parents: Tensor
    codes: Tensor

    @classmethod
    def none(cls, users: int, levels: int, device: torch.device) -> Prefixes:
        """No slots."""
        whole = torch.zeros(users, 0, dtype=torch.int64, device=device)
        codes = torch.zeros(users, 0, levels, dtype=torch.int32, device=device)
        return cls(torch.zeros(users, 0, device=device), whole.int(), whole, whole, codes)

    @classmethod
    def root(cls, users: int, levels: int, device: torch.device) -> Prefixes:
        """The empty prefix of each user."""
        whole = torch.zeros(users, 1, dtype=torch.int64, device=device)
        codes = torch.zeros(users, 1, levels, dtype=torch.int32, device=device)
        return cls(torch.zeros(users, 1, device=device), whole.int(), whole, whole, codes)

    def joined(self, other: Prefixes) -> Prefixes:
        """Both, these first."""
        return Prefixes(*(torch.cat(pair, 1) for pair in zip(_parts(self), _parts(other), strict=True)))

    def where(self, kept: Tensor) -> Prefixes:
        """The same slots, those outside bool ``[B, P]`` empty."""
        return dataclasses.replace(self, scores=self.scores.where(kept, -torch.inf), nodes=self.nodes.where(kept, -1))

    def select(self, users: Tensor) -> Prefixes:
        """Of some users, int64 ``[m]``."""
        return Prefixes(*(part[users] for part in _parts(self)))

    def split(self, picked: Tensor) -> tuple[Prefixes, Prefixes]:
        """Those where bool ``[B, P]``, in as many slots as the user with the most needs, and the same slots without."""
        most = int(picked.sum(1).max()) if picked.numel() else 0
        first = (~picked).byte().argsort(dim=1, stable=True)[:, :most]
        return self.where(picked)._at(first), self.where(~picked)

    def best(self, least: Tensor) -> tuple[Prefixes, Tensor]:
        """Those that score at least float32 ``least [B]``, the best first (ties as they stood), and what was dropped.

        Returns:
            The prefixes, and the best score among those that were dropped, float32 ``[B]`` (-inf: none was).
        """
        kept = (self.scores > -torch.inf) & (self.scores >= least.unsqueeze(1))
        order = self.scores.where(kept, -torch.inf).argsort(dim=1, descending=True, stable=True)
        most = int(kept.sum(1).max()) if kept.numel() else 0
        lost = self.scores.where(~kept, -torch.inf)
        dropped = lost.amax(1) if lost.shape[1] else torch.full_like(least, -torch.inf)
        return self.where(kept)._at(order[:, :most]), dropped

    def _at(self, order: Tensor) -> Prefixes:
        return Prefixes(
            self.scores.gather(1, order),
            self.nodes.gather(1, order),
            self.levels.gather(1, order),
            self.parents.gather(1, order),
            self.codes.gather(1, order.unsqueeze(2).expand(-1, -1, self.codes.shape[2])),
        )


def _parts(prefixes: Prefixes) -> tuple[Tensor, ...]:
    return prefixes.scores, prefixes.nodes, prefixes.levels, prefixes.parents, prefixes.codes

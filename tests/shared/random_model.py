"""A backbone whose logits are known for every prefix, so that brute force over a whole catalog is possible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch


class RandomModel:
    """Deterministic pseudo-random logits per (user's history, prefix).

    Args:
        codebook_sizes: of all levels.
        seed: of the model.
        scale: how peaked: logits are uniform in [0, scale).
        steps: logits are multiples of scale / steps: few steps give many ties.
        forbidden: share of logits that are -inf.
        tree: whether its sessions read rows at different depths in one call.
    """

    def __init__(self, codebook_sizes, seed=0, *, scale=4.0, steps=1 << 20, forbidden=0.0, tree=False):
        self.codebook_sizes = tuple(codebook_sizes)
        self.seed, self.scale, self.steps, self.forbidden = seed, scale, steps, forbidden
        self.tree = tree
        self.users_read: list[int] = []
        self.users_searched: list[int] = []

    def prefill(self, batch: Batch) -> RandomSession:
        self.users_read.append(len(batch))
        states = [_hash(torch.tensor([self.seed, *row.tolist()])) for row in batch.items.rows()]
        state = torch.tensor(states, dtype=torch.int64).view(-1, 1)
        return RandomTree(self, state, torch.zeros_like(state), 1) if self.tree else RandomSession(self, state, 0)

    def logits(self, state: Tensor, level: int) -> Tensor:
        draws = _mix(state.unsqueeze(2) * 1_000_003 + torch.arange(self.codebook_sizes[level]) + 7 * level)
        logits = (draws % self.steps).float() * (self.scale / self.steps)
        hidden = (_mix(draws + 1) % 1000) < int(self.forbidden * 1000)
        return logits.masked_fill(hidden, -torch.inf)


@dataclass(frozen=True)
class RandomSession:
    """One hash per user and beam ``[B, W]``."""

    model: RandomModel
    state: Tensor
    level: int

    def scores(self, span=None, *, log_sums=False):
        return self.model.logits(self.state, self.level), None

    def extend(self, codes, parents):
        state = _mix(self.state.gather(1, parents.long()) * 31 + codes.long() + 1)
        return RandomSession(self.model, state, self.level + 1)

    def select(self, users):
        self.model.users_searched.append(len(users))
        return RandomSession(self.model, self.state[users], self.level)

    def search(self, trie, plan, paid):
        return None


@dataclass(frozen=True)
class RandomTree:
    """One hash per user and row of all calls ``[B, N]``, and its level; the last call's rows are the last."""

    model: RandomModel
    states: Tensor
    levels: Tensor
    last: int

    @property
    def finite(self):
        return not self.model.forbidden

    def scores(self, span=None, *, log_sums=False):
        sizes, states, levels = self.model.codebook_sizes, self.states[:, -self.last :], self.levels[:, -self.last :]
        every = torch.full((*states.shape, max(sizes)), -torch.inf)
        for level, size in enumerate(sizes):
            every[..., :size] = self.model.logits(states, level).where(
                (levels == level).unsqueeze(2), every[..., :size]
            )
        return every, None

    def extend(self, codes, parents):
        return self.extend_tree(codes, parents.long() + self.states.shape[1] - self.last)

    def extend_tree(self, codes, parents):
        states, levels = self.states, self.levels
        for code, parent in zip(codes.long().unbind(1), parents.long().unbind(1), strict=True):
            above = states.gather(1, parent.unsqueeze(1))
            states = torch.cat([states, _mix(above * 31 + code.unsqueeze(1) + 1)], 1)
            levels = torch.cat([levels, levels.gather(1, parent.unsqueeze(1)) + 1], 1)
        return RandomTree(self.model, states, levels, codes.shape[1])

    def select(self, users):
        self.model.users_searched.append(len(users))
        return RandomTree(self.model, self.states[users], self.levels[users], self.last)

    def search(self, trie, plan, paid):
        return None

    searches_best_first = False

    def best_first(self, trie, plan, users, width):
        return None


def _mix(x: Tensor) -> Tensor:
    """A number in [0, 2^31) that looks random."""
    x = (x ^ (x >> 15)) * 0x2C1B3C6D & 0x7FFFFFFF
    x = (x ^ (x >> 12)) * 0x297A2D39 & 0x7FFFFFFF
    return x ^ (x >> 15)


def _hash(values: Tensor) -> int:
    state = torch.tensor(17, dtype=torch.int64)
    for value in values:
        state = _mix(state * 31 + value + 1)
    return int(state)


def brute_force(model, batch, item_codes, k, *, keep=None):
    """Scores of all items ``[B, N]`` and the best k, without a trie: higher score first, then lower item id.

    ``keep`` is bool ``[B, N]``. Scores are those of the library's own log-softmax (its twin), so ties are the same.
    """
    from genrec_fast.ops.reference.trie_step import log_sum_exp

    session = model.prefill(batch)
    users, items = len(batch), item_codes.shape[0]
    scores = torch.zeros(users, items)
    for level in range(item_codes.shape[1]):
        logits, _ = session.scores()
        logits = logits.expand(users, items, -1)
        chosen = item_codes[:, level].long().view(1, -1, 1).expand(users, -1, 1)
        normaliser = log_sum_exp(logits)
        normaliser = torch.where(normaliser > -torch.inf, normaliser, 0.0)
        scores = (scores + (logits.gather(2, chosen).squeeze(2) - normaliser)) + 0.0
        codes = item_codes[:, level].int().expand(users, -1)
        parents = (
            torch.zeros(users, items, dtype=torch.int32) if level == 0 else torch.arange(items).int().expand(users, -1)
        )
        session = session.extend(codes, parents)
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    best, order = torch.sort(scores, dim=1, descending=True, stable=True)
    best = torch.nn.functional.pad(best, (0, max(0, k - items)), value=-torch.inf)[:, :k]
    order = torch.nn.functional.pad(order, (0, max(0, k - items)))[:, :k]
    return scores, torch.where(best > -torch.inf, order, -1), best

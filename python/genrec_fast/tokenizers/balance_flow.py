"""Rows above a limit move on: along the cheapest chain of codes, each code giving one row to the next."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["even_out"]

_MOST_CODES = 1024  # with a table of moves: K x K float32
_ELEMENTS = 1 << 22  # of a block's table of costs
_STEPS = 32  # at least this many chains while many rows are above the limit
_HOPS = 16  # of a chain, at most: without loops 2 to 5 are usual (K = 256), with one the search would go on to K
_LEAST_GAIN = 1e-6  # of the largest move's cost: less is rounding


def even_out(
    x: Tensor, centroids: Tensor, labels: Tensor, room: int, prices: Tensor, table: Tensor | None = None
) -> None:
    """Changes ``labels`` until no code has more than ``room`` rows, at the least cost of squared distances.

    The labels must be the cheapest for some prices, for then each cheapest chain keeps them the cheapest of all with
    their numbers of rows (successive shortest paths). While more than 64 rows are above the limit, a chain moves
    several at once, which is near the cheapest only.

    Args:
        x: float ``[N, D]``.
        centroids: float32 ``[K, D]``.
        labels: int64 ``[N]``, changed in place.
        room: rows per code, ``room * K >= N``.
        prices: float64 ``[K]``; beyond 1024 codes rows go straight to the cheapest code with room, less price.
        table: float32 ``[N, K]`` squared distances, each row less a number of its own; ``None``: computed where needed.
    """
    if len(centroids) > _MOST_CODES:
        _spill(x, centroids, labels, room, prices)
        return
    counts = labels.bincount(minlength=len(centroids))
    if int((counts - room).clamp(min=0).sum()) == 0:
        return
    costs = _Costs(x, centroids, table)
    moves = torch.stack([_cheapest_moves(costs, labels, code) for code in range(len(centroids))])
    finite = moves[moves.isfinite()]
    least = _LEAST_GAIN * float(finite.abs().max()) if len(finite) else 0.0
    while (excess := int((counts - room).clamp(min=0).sum())) > 0:
        chain = _cheapest_chain(moves, counts > room, counts < room, least)
        amount = min(max(1, excess // _STEPS), int(counts[chain[0]]) - room, room - int(counts[chain[-1]]))
        amount = min(amount, *(int(counts[code]) for code in chain[: len(chain) - 1]))
        movers = [_movers(costs, labels, source, target, amount) for source, target in itertools.pairwise(chain)]
        for rows, target in zip(movers, chain[1:], strict=True):
            labels[rows] = target
        counts[chain[0]] -= amount
        counts[chain[-1]] += amount
        for code in set(chain):
            moves[code] = _cheapest_moves(costs, labels, code)


class _Costs(NamedTuple):
    x: Tensor
    centroids: Tensor
    table: Tensor | None

    def differences(self, rows: Tensor, code: int, codes: list[int] | slice = slice(None)) -> Tensor:
        """float32 ``[m, codes]``: what each of these rows of ``code`` would pay more at each of ``codes``."""
        if self.table is not None:
            return self.table[rows][:, codes] - self.table[rows, code][:, None]
        others = self.centroids[codes] - self.centroids[code]
        own = self.x[rows].float() - self.centroids[code]  # |x - c|^2 - |own|^2 = |c - own|^2 - 2 (x - own)(c - own)
        return torch.addmm(others.square().sum(1), own, others.T, alpha=-2)


def _blocks(labels: Tensor, code: int, codes: int) -> list[Tensor]:
    return list((labels == code).nonzero()[:, 0].split(max(1, _ELEMENTS // codes)))


def _cheapest_moves(costs: _Costs, labels: Tensor, code: int) -> Tensor:
    """float32 ``[K]``: the least that a row of ``code`` pays more at each other code; infinite without rows."""
    least = torch.full((len(costs.centroids),), torch.inf)
    for rows in _blocks(labels, code, len(least)):
        if len(rows):
            least = torch.minimum(least, costs.differences(rows, code).amin(0))
    least[code] = torch.inf
    return least


def _movers(costs: _Costs, labels: Tensor, source: int, target: int, amount: int) -> Tensor:
    """int64 ``[amount]``: the rows of ``source`` that pay least at ``target``; the first among equals."""
    blocks = _blocks(labels, source, 2)
    more = [costs.differences(rows, source, [target])[:, 0] for rows in blocks]
    return torch.cat(blocks)[torch.cat(more).argsort(stable=True)[:amount]]


def _cheapest_chain(moves: Tensor, full: Tensor, free: Tensor, least: float) -> list[int]:
    """Codes from a full one to a free one; where moves of many rows have left a loop that gains, it is cut out."""
    cost = torch.where(full, 0.0, torch.inf)
    hops: list[tuple[Tensor, Tensor]] = []  # costs before a hop, and the codes that it made cheaper
    while len(hops) < min(len(moves), _HOPS):
        shorter = (cost[:, None] + moves).amin(0)
        better = shorter < cost - least
        if not bool(better.any()):
            break
        hops.append((cost, better))
        cost = torch.where(better, shorter, cost)
    node = int(torch.where(free, cost, torch.inf).argmin())
    chain = [node]
    for before, better in reversed(hops):
        if bool(better[node]):
            node = int((before + moves[:, node]).argmin())
            if node in chain:
                del chain[chain.index(node) :]
            chain.append(node)
    return chain[::-1]


def _spill(x: Tensor, centroids: Tensor, labels: Tensor, room: int, prices: Tensor) -> None:
    """Rounds: each full code sends its excess rows, cheapest move first, to codes that take as many as they can."""
    codes = len(centroids)
    centre = centroids.mean(0)
    moved = centroids - centre
    table = moved.square().sum(1) - prices.float()
    while True:
        counts = labels.bincount(minlength=codes)
        full = counts > room
        if not bool(full.any()):
            return
        bias = torch.where(counts < room, table, torch.inf)
        asking = full[labels].nonzero()[:, 0]
        goal, regret = torch.empty_like(asking), torch.empty(len(asking))
        for part in torch.arange(len(asking)).split(max(1, _ELEMENTS // codes)):
            rows = x[asking[part]].float() - centre
            low = torch.addmm(bias, rows, moved.T, alpha=-2).min(1)
            own = labels[asking[part]]
            goal[part] = low.indices
            regret[part] = low.values - (table[own] - 2 * (rows * moved[own]).sum(1))
        order = regret.argsort(stable=True)
        order = order[_rank(labels[asking[order]]) < (counts - room)[labels[asking[order]]]]
        order = order[_rank(goal[order]) < (room - counts)[goal[order]]]
        labels[asking[order]] = goal[order]


def _rank(keys: Tensor) -> Tensor:
    """int64: how many equal keys stand before each."""
    order = keys.argsort(stable=True)
    first = torch.searchsorted(keys[order], keys[order])
    ranks = torch.empty_like(keys)
    ranks[order] = torch.arange(len(keys)) - first
    return ranks

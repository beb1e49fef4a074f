"""Where k-means starts, and where an empty code goes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROWS_PER_CODE = 64  # that k-means++ looks at, never fewer than _FEWEST in all: enough to see every cluster
_FEWEST = 16384
_MOST_ELEMENTS = 1 << 26  # of the rows looked at, which are held in float64: 512 MiB (more only where k rows need it)
_SEQUENTIAL = 1024  # up to here centroids are drawn one by one, of several trials; beyond, several per round


def random_rows(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """float32 ``[k, D]``: k different rows."""
    return x[torch.randperm(len(x), generator=generator)[:k].sort().values].float()


def plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """float32 ``[k, D]``: rows drawn by their squared distance to those drawn before (greedy k-means++).

    Up to 1024 codes each draw is the best of ``2 + ln k`` trials; beyond, ``k / 1024`` rows are drawn per round by the
    distances at its start. At most ``max(64 k, 16384)`` rows, drawn at random, are looked at, fewer where they would
    take more than 512 MiB. Where all distances are zero (fewer distinct rows than codes) the draw is uniform, and some
    centroids are equal.

    Cost: ``(2 + ln k) k`` products of D per row looked at (1 instead of ``2 + ln k`` beyond 1024 codes), in float64.

    Source:
        Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007; the rounds: Bahmani et al.,
        "Scalable k-means++", 2012.
    """
    looked_at = min(max(_ROWS_PER_CODE * k, _FEWEST), _MOST_ELEMENTS // x.shape[1])
    looked_at = min(len(x), max(looked_at, k))
    if looked_at < len(x):
        x = x[torch.randperm(len(x), generator=generator)[:looked_at].sort().values]
    rows = x.double()
    rows = rows - rows.mean(0)  # squared distances by products lose fewer digits near the origin
    norms = rows.square().sum(1)
    trials = 2 + int(math.log(k)) if k <= _SEQUENTIAL else 1
    per_round = 1 if k <= _SEQUENTIAL else -(-k // _SEQUENTIAL)
    chosen = torch.randint(len(x), (1,), generator=generator)
    weights = _squared(rows, norms, chosen)[:, 0]
    while len(chosen) < k:
        wanted = min(per_round, k - len(chosen))
        drawn = _draw(weights, trials if per_round == 1 else wanted, generator)
        distances = torch.minimum(_squared(rows, norms, drawn), weights[:, None])
        if per_round == 1:
            best = int(distances.sum(0).argmin())
            drawn, weights = drawn[best : best + 1], distances[:, best]
        else:
            drawn, weights = drawn.unique(), distances.amin(1)
        chosen = torch.cat([chosen, drawn])
    return x[chosen].float()


def drawn_in(x: Tensor, seeds: Tensor, share: float = 0.25) -> Tensor:
    """float32 ``[k, D]``: the seeds, moved towards the mean of the rows to ``share`` of their distance from it."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for block in x.split(_FEWEST):
        total += block.double().sum(0)
    mean = (total / len(x)).float()
    return mean + share * (seeds - mean)


def _squared(rows: Tensor, norms: Tensor, chosen: Tensor) -> Tensor:
    """float64 ``[N, M]``, in steps of float32: what the products' rounding could move is cut off."""
    table = torch.addmm(norms[:, None] + norms[chosen], rows, rows[chosen].T, alpha=-2)
    table[chosen, torch.arange(len(chosen))] = 0
    floor = norms.amax() * 2.0**-40  # below it the difference of the products is noise
    return torch.where(table > floor, table, 0.0).float().double()


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """int64 ``[count]`` rows, each with its weight's probability; uniform where every weight is zero."""
    sums = weights.cumsum(0)
    total = float(sums[-1])
    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    if total <= 0:
        return (uniform * len(weights)).long()
    return torch.searchsorted(sums, uniform * total, right=True).clamp_(max=int((weights > 0).nonzero()[-1]))


def restart_empty_codes(x: Tensor, centroids: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """New ``centroids`` where every code without rows sits on the row farthest from its cluster's mean.

    The cluster with the largest squared error gives its farthest row, its error is then counted as half, and so on;
    a code stays where it is once no cluster has two different rows. Ties go to the lower index.

    Args:
        x: float ``[N, D]``.
        centroids: float32 ``[k, D]``, the means of their rows.
        labels: int ``[N]``.
        counts: int64 ``[k]``, rows per code.
    """
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if not empty:
        return centroids
    centroids = centroids.clone()
    order = labels.long().argsort(stable=True)
    ends = counts.cumsum(0).tolist()
    errors = _errors(x, centroids, labels, len(counts))
    taken: set[int] = set()
    for code in empty:
        while float(errors.max()) > 0:
            largest = int(errors.argmax())
            rows = order[ends[largest] - int(counts[largest]) : ends[largest]]
            far = (x[rows].double() - centroids[largest].double()).square().sum(1)
            for row in taken.intersection(rows.tolist()):
                far[rows == row] = 0
            if float(far.max()) > 0:
                best = int(rows[int(far.argmax())])
                taken.add(best)
                centroids[code] = x[best].float()
                errors[largest] /= 2
                break
            errors[largest] = 0
        else:
            break
    return centroids


def _errors(x: Tensor, centroids: Tensor, labels: Tensor, k: int) -> Tensor:
    """float64 ``[k]``: squared distances of the rows of a code, added."""
    errors = torch.zeros(k, dtype=torch.float64)
    for rows, codes in zip(x.split(_FEWEST), labels.long().split(_FEWEST), strict=True):
        distances = (rows.double() - centroids.double()[codes]).square().sum(1)
        errors += torch.bincount(codes, weights=distances, minlength=k)
    return errors

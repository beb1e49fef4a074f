"""k-means: Lloyd's iterations over all rows or in mini-batches, from a chosen start, with no code left empty."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.checks import INT64, check_dense, check_flag, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.progress import Progress
from genrec_fast.tokenizers.clustering.balance import Balance, balanced_assignment, check_balance
from genrec_fast.tokenizers.clustering.seeding import plus_plus, random_rows, restart_empty_codes

_BLOCK = 65536  # rows per call: a multiple of 1024, for the inertia's bits
_MOST_CODES = 65536
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class KMeans(NamedTuple):
    """``centroids`` float32 ``[k, D]``, ``labels`` int32 ``[N]``, ``inertia``: the sum of squared distances."""

    centroids: Tensor
    labels: Tensor
    inertia: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    k: int
    iterations: int
    batch_size: int | None
    balance: Balance | None
    restart_empty: bool
    progress: Progress | None


def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 25,
    init: str | Tensor = "kmeans++",
    batch_size: int | None = None,
    balance: Balance | None = None,
    restart_empty: bool = True,
    restarts: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> KMeans:
    """Centroids with a small sum of squared distances to their rows.

    ::

        centroids = init
        for iteration: labels = nearest(x, centroids); centroids = means of the rows of each label
        labels = nearest(x, centroids)

    Args:
        x: float32, bfloat16 or float16 ``[N, D]``; a memory-mapped tensor is read block by block.
        k: number of centroids, in ``[1, min(N, 65536)]``.
        iterations: passes over the rows, at least 0 (a pass more names the labels); fewer once nothing moves.
        init: "kmeans++" (greedy), "random" (k different rows), or float ``[k, D]``.
        batch_size: rows per update; ``None``: one update per pass. Each pass draws its batches in a new order.
        balance: labels by ``balanced_assignment`` instead of nearest, at every pass: "sinkhorn" or "capacity"; not with
            ``batch_size``.
        restart_empty: a code without rows goes to the farthest row of the cluster with the largest error.
        restarts: runs from other starts, of which the lowest inertia is kept (the first among equals).
        seed: of starts and batches.
        progress: called after each pass with ("kmeans", passes done, passes in all, {"inertia": ...}).

    Returns:
        A ``KMeans``: ``labels`` are the nearest centroids (as ``ops.kmeans_step`` defines nearest), or balanced ones.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a wrong shape or range, fewer rows than k, or a value that is not finite (naming its row).

    Notes:
        Equal inputs give equal bits. With fewer distinct rows than k some centroids are equal and the later ones have
        no rows. Cost: ``iterations + 1`` calls of ``ops.kmeans_step``, and the start (see ``kmeans_seed.plus_plus``);
        memory beside x: labels, ``k x D`` and a block of rows. A mini-batch pass costs as much as a full one and
        updates ``N / batch_size`` times. Balanced labels cost more (see ``balanced_assignment``), and under
        "sinkhorn" the inertia may rise on the way.

    Source:
        Lloyd, "Least squares quantization in PCM", 1982; mini-batches: Sculley, "Web-scale k-means clustering", 2010,
        algorithm 1, where a code's count is halved at each new pass.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import kmeans
        >>> found = kmeans(torch.tensor([[0.0], [1.0], [9.0], [10.0]]), 2)
        >>> sorted(found.centroids[:, 0].tolist()), found.inertia
        ([0.5, 9.5], 1.0)
    """
    _check_rows(x)
    seed = whole_number("kmeans", "seed", seed, *INT64)
    check_flag("kmeans", "restart_empty", restart_empty)
    _check_numbers(len(x), k, iterations=iterations, restarts=restarts, batch_size=batch_size)
    _check_init(init, k, x.shape[1])
    check_balance("kmeans", balance)
    if balance is not None and batch_size is not None:
        raise InvalidValueError(f"kmeans: batch_size must be None with balance {balance!r}, got {batch_size}")
    settings = _Settings(
        k=k,
        iterations=iterations,
        batch_size=batch_size,
        balance=balance,
        restart_empty=restart_empty,
        progress=progress,
    )
    x = x.detach()
    best: KMeans | None = None
    for run in range(restarts):
        generator = torch.Generator().manual_seed((seed + 0x9E3779B9 * run) % (1 << 63))
        if isinstance(init, Tensor):
            start = init.detach().float().clone()
        else:
            start = plus_plus(x, k, generator) if init == "kmeans++" else random_rows(x, k, generator)
        found = _run(x, start, generator, settings, run * (iterations + 1), restarts * (iterations + 1))
        best = found if best is None or found.inertia < best.inertia else best
    assert best is not None  # restarts is at least 1
    return best


def squared_length(rows: Tensor) -> float:
    """Of all rows together, in float64 and in one order for any number of threads."""
    sums = rows.double().square().sum(1)
    return float(sums.cumsum(0)[-1]) if len(sums) else 0.0


def _run(
    x: Tensor, centroids: Tensor, generator: torch.Generator, settings: _Settings, done: int, total: int
) -> KMeans:
    counts, prices = torch.zeros(settings.k, dtype=torch.float64), torch.zeros(settings.k, dtype=torch.float64)
    for iteration in range(settings.iterations):
        if settings.batch_size is None:
            step = _pass(x, centroids, settings.balance, prices)
            following = _means(step, centroids)
            inertia = float(step.inertia)
            if settings.restart_empty:
                following = restart_empty_codes(x, following, step.labels, step.counts)
        else:
            following, counts, inertia = _batches(x, centroids, counts / 2, generator, settings)
        if settings.progress is not None:
            settings.progress("kmeans", done + iteration + 1, total, {"inertia": inertia})
        still = torch.equal(following, centroids)
        centroids = following
        if still and settings.batch_size is None:
            break
    step = _pass(x, centroids, settings.balance, prices)
    if settings.progress is not None:
        settings.progress("kmeans", done + settings.iterations + 1, total, {"inertia": float(step.inertia)})
    return KMeans(centroids, step.labels, float(step.inertia))


def _pass(x: Tensor, centroids: Tensor, balance: Balance | None, prices: Tensor) -> ops.KMeansStep:
    """``ops.kmeans_step`` over all rows, a block at a time; or the same of balanced labels."""
    if balance is not None:
        chosen = balanced_assignment(x, centroids, method=balance, prices=prices)
        return _step_of(x, centroids, chosen)
    step, labels = None, []
    for block in x.split(_BLOCK):
        step = ops.kmeans_step(block, centroids, after=step)
        labels.append(step.labels)
    assert step is not None  # x has a row
    return step._replace(labels=torch.cat(labels))


def _step_of(x: Tensor, centroids: Tensor, labels: Tensor) -> ops.KMeansStep:
    """What ``ops.kmeans_step`` gives, of labels that are known."""
    sums = torch.zeros(centroids.shape, dtype=torch.float64)
    inertia = torch.zeros((), dtype=torch.float64)
    for rows, codes in zip(x.split(_BLOCK), labels.long().split(_BLOCK), strict=True):
        wide = rows.double()
        sums.index_add_(0, codes, wide)
        inertia += (wide - centroids.double()[codes]).square().sum(1).cumsum(0)[-1]
    return ops.KMeansStep(labels, sums, labels.long().bincount(minlength=len(centroids)), inertia)


def _means(step: ops.KMeansStep, centroids: Tensor) -> Tensor:
    """float32 ``[k, D]``: of the rows of each code; a code without rows stays."""
    means = (step.sums / step.counts.clamp(min=1)[:, None]).float()
    return torch.where(step.counts[:, None] > 0, means, centroids)


def _batches(
    x: Tensor, centroids: Tensor, counts: Tensor, generator: torch.Generator, settings: _Settings
) -> tuple[Tensor, Tensor, float]:
    """A pass in mini-batches: centroids, rows per code so far, and the inertia that the rows met."""
    inertia = 0.0
    seen = torch.zeros(settings.k, dtype=torch.int64)
    order = torch.randperm(len(x), generator=generator)
    rows = x[:0]
    for chosen in order.split(settings.batch_size or len(x)):
        rows = x[chosen.sort().values]  # sorted: a file is read forwards
        step = ops.kmeans_step(rows, centroids)
        counts = counts + step.counts
        seen += step.counts
        pull = step.sums - step.counts[:, None] * centroids.double()
        centroids = (centroids.double() + pull / counts.clamp(min=1)[:, None]).float()
        inertia += float(step.inertia)
    if settings.restart_empty and bool((seen == 0).any()):
        step = ops.kmeans_step(rows, centroids)  # the last batch stands for all rows
        moved = restart_empty_codes(rows, _means(step, centroids), step.labels, step.counts)
        centroids = torch.where(((seen == 0) & (step.counts == 0))[:, None], moved, centroids)
    return centroids, counts, inertia


def _check_rows(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise InvalidTypeError(f"kmeans: x must be a tensor, got {type(x).__name__}")
    if x.dtype not in _FLOATS:
        raise InvalidTypeError(f"kmeans: x must be float32, bfloat16 or float16 [N, D], got {x.dtype}")
    check_dense("kmeans", "x", x)
    if x.dim() != 2 or min(x.shape) < 1:
        raise InvalidValueError(f"kmeans: x must be [N, D] with at least one of each, got {list(x.shape)}")
    if x.device.type != "cpu":
        raise InvalidValueError(f"kmeans: x must be on cpu, got {x.device}")
    for first, block in enumerate(x.split(_BLOCK)):
        finite = block.isfinite().all(1)
        if not bool(finite.all()):
            row = first * _BLOCK + int((~finite).nonzero()[0])
            raise InvalidValueError(f"kmeans: x must be finite, got NaN or infinity in row {row}")


def _check_numbers(rows: int, k: Any, *, iterations: Any, restarts: Any, batch_size: Any) -> None:
    whole_number("kmeans", "k", k)
    whole_number("kmeans", "iterations", iterations, least=0)
    whole_number("kmeans", "restarts", restarts)
    if batch_size is not None:
        whole_number("kmeans", "batch_size", batch_size)
    if k > _MOST_CODES:
        raise InvalidValueError(f"kmeans: k must be at most {_MOST_CODES}, got {k}")
    if k > rows:
        raise InvalidValueError(f"kmeans: x must have at least {k} rows, one per centroid, got {rows}")


def _check_init(init: Any, k: int, width: int) -> None:
    if isinstance(init, Tensor):
        if init.dtype not in _FLOATS:
            raise InvalidTypeError(f"kmeans: init must be float32, bfloat16 or float16 [k, D], got {init.dtype}")
        if init.shape != (k, width):
            raise InvalidValueError(f"kmeans: init must be [{k}, {width}], got {list(init.shape)}")
        if not bool(init.isfinite().all()):
            raise InvalidValueError("kmeans: init must be finite, got NaN or infinity")
    elif init not in ("kmeans++", "random"):
        raise InvalidValueError(f"kmeans: init must be 'kmeans++', 'random' or a tensor, got {init!r}")

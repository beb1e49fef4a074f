"""Codebooks of residual k-means: level after level, then all levels together."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.progress import Progress
from genrec_fast.tokenizers.clustering.balance import Balance
from genrec_fast.tokenizers.clustering.kmeans import kmeans, squared_length
from genrec_fast.tokenizers.clustering.seeding import drawn_in, plus_plus, random_rows

BLOCK = 65536  # rows coded at once: 256 MiB of float32 at F = 1024
_STEPS = 10  # of the progressive start: the first F^(1/10), F^(2/10), .. principal directions (faiss)
_PASSES = 5  # of k-means in each but the last


class Settings(Protocol):
    """What ``RQKMeansConfig`` says of the training; see there."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    @property
    def iterations(self) -> int: ...
    @property
    def init(self) -> str: ...
    @property
    def restarts(self) -> int: ...
    @property
    def restart_empty(self) -> bool: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def refinements(self) -> int: ...
    @property
    def shrinkage(self) -> float: ...
    @property
    def normalize_residuals(self) -> bool: ...
    @property
    def balance(self) -> Balance | None: ...
    @property
    def num_beams(self) -> int: ...
    @property
    def precision(self) -> str: ...
    def balanced(self, level: int) -> bool: ...


class Trained(NamedTuple):
    """``codebooks`` float32 ``[K_l, F]``, ``scales`` (1 but with normalised residuals), ``labels`` int64 per level."""

    codebooks: list[Tensor]
    scales: list[float]
    labels: list[Tensor]


def train_codebooks(rows: Tensor, config: Settings, seed: int, progress: Progress) -> Trained:
    """Codebooks of float32 ``[N, F]``; memory beside it: one copy (two while a progressive start runs)."""
    codebooks: list[Tensor] = []
    labels: list[Tensor] = []
    scales: list[float] = []
    residual = rows
    for level, size in enumerate(config.codebook_sizes):
        if config.normalize_residuals:
            residual = torch.nn.functional.normalize(residual, dim=1)
        found = _level(residual, size, config, seed, level, progress)
        codebooks.append(found.centroids)
        labels.append(found.labels.long())
        scales.append(1.0)
        residual = next_residual(residual, found.centroids, labels[-1])
    if config.normalize_residuals:
        scales = _scales(rows, codebooks, labels)
    elif config.balance is None:
        codebooks = _together(rows, residual, codebooks, labels, config, progress)
        if config.shrinkage > 0:
            codebooks = _shrunk(rows, codebooks, config)
    return Trained(codebooks, scales, labels)


def next_residual(residual: Tensor, codebook: Tensor, labels: Tensor) -> Tensor:
    """float32 ``[N, F]``: what a level leaves over."""
    return residual - codebook[labels]


class _Level(NamedTuple):
    centroids: Tensor
    labels: Tensor


def _level(residual: Tensor, size: int, config: Settings, seed: int, level: int, progress: Progress) -> _Level:
    def report(_: str, done: int, total: int, figures: dict[str, float]) -> None:
        progress(f"rqkmeans level {level}", done, total, {"mse": figures["inertia"] / residual.numel()})

    best = None
    for run in range(config.restarts):
        state = (seed * 1_000_003 + level * 1009 + run) % (1 << 63)
        generator = torch.Generator().manual_seed(state)
        found = kmeans(
            residual,
            size,
            iterations=config.iterations,
            init=_start(residual, size, config.init, generator),
            batch_size=config.batch_size,
            balance=config.balance if config.balanced(level) else None,
            restart_empty=config.restart_empty,
            seed=state,
            progress=report,
        )
        best = found if best is None or found.inertia < best.inertia else best
    assert best is not None  # restarts is at least 1
    return _Level(best.centroids, best.labels)


def _start(residual: Tensor, size: int, init: str, generator: torch.Generator) -> Tensor:
    """float32 ``[K, F]``."""
    if init == "random":
        return random_rows(residual, size, generator)
    if init == "progressive":
        return _progressive(residual, size, generator)
    seeds = plus_plus(residual, size, generator)
    if init == "kmeans++":
        return seeds
    # In many dimensions all rows are about equally far from each other: a code that starts on a row keeps only that
    # row, and the few codes near the mean take the rest. Seeds moved towards the mean divide the rows by direction.
    # Where the rows form clusters the seeds are right as they are: take whichever is better after one pass.
    starts = [seeds, drawn_in(residual, seeds)]
    figures = [kmeans(residual, size, iterations=1, init=start, restart_empty=False) for start in starts]
    return starts[0] if figures[0].inertia <= figures[1].inertia else starts[1]


def _progressive(residual: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means in few principal directions, whose clusters start k-means in more, up to all of them.

    Source: Liu, Shao and Lu, "Generalized residual vector quantization for large scale data", 2016, section 3.2.
    """
    width = residual.shape[1]
    total, square = residual.new_zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for block in residual.split(BLOCK):
        wide = block.double()
        total += wide.sum(0)
        square += wide.T @ wide
    mean = total / len(residual)
    directions = torch.linalg.eigh(square / len(residual) - mean[:, None] * mean).eigenvectors.flip(1).float()
    rotated = residual @ directions
    labels = None
    for kept in sorted({round(width ** (step / _STEPS)) for step in range(1, _STEPS)} - {width}):
        part = rotated[:, :kept].contiguous()
        start = plus_plus(part, size, generator) if labels is None else _centres(part, labels, size)
        labels = kmeans(part, size, iterations=_PASSES, init=start).labels.long()
    return plus_plus(residual, size, generator) if labels is None else _centres(residual, labels, size)


def _centres(rows: Tensor, labels: Tensor, size: int) -> Tensor:
    """float32 ``[K, F]``: the mean of the rows of each label; zero without rows."""
    sums = torch.zeros(size, rows.shape[1], dtype=torch.float64)
    for block, codes in zip(rows.split(BLOCK), labels.split(BLOCK), strict=True):
        sums.index_add_(0, codes, block.double())
    return (sums / labels.bincount(minlength=size).clamp(min=1)[:, None]).float()


def _scales(rows: Tensor, codebooks: list[Tensor], labels: list[Tensor]) -> list[float]:
    """One factor per level for the sum of centroids, each the best after those before (least squares)."""
    scales, left = [], rows
    for codebook, codes in zip(codebooks, labels, strict=True):
        chosen = codebook[codes]
        length = squared_length(chosen)
        product = float((left.double() * chosen).sum(1).cumsum(0)[-1])
        scales.append(product / length if length > 0 else 1.0)
        left = left - scales[-1] * chosen
    return scales


def _together(
    rows: Tensor,
    residual: Tensor,
    codebooks: list[Tensor],
    labels: list[Tensor],
    config: Settings,
    progress: Progress,
) -> list[Tensor]:
    """Rounds over all levels: each code moves by the mean residual of its rows, then all rows are coded again.

    The codebooks of the round with the smallest error are kept, so no round makes it worse.
    """
    best, least = codebooks, squared_length(residual)
    for done in range(config.refinements):
        codebooks = list(codebooks)
        for level, codes in enumerate(labels):
            step = _centres(residual, codes, len(codebooks[level]))
            codebooks[level] = codebooks[level] + step
            residual = next_residual(residual, step, codes)
        codes_now = ops.rq_encode(rows, codebooks, num_beams=config.num_beams, precision=config.precision)
        labels = [column.long() for column in codes_now.unbind(1)]
        residual = rows - ops.rq_decode(codes_now, codebooks)
        error = squared_length(residual)
        if error < least:
            best, least = codebooks, error
        progress("rqkmeans together", done + 1, config.refinements, {"mse": error / max(rows.numel(), 1)})
    return best


def _shrunk(rows: Tensor, codebooks: list[Tensor], config: Settings) -> list[Tensor]:
    """Every centroid drawn to its level's mean by a part of the noise in it: of n rows of variance v, ``v / n``."""
    labels = ops.rq_encode(rows, codebooks, num_beams=config.num_beams, precision=config.precision)
    residual, shrunk = rows, []
    for level, codebook in enumerate(codebooks):
        codes = labels[:, level].long()
        residual = next_residual(residual, codebook, codes)
        counts = codes.bincount(minlength=len(codebook)).double()
        mean = (codebook.double() * counts[:, None]).sum(0) / len(rows)
        around = codebook.double() - mean
        noise = squared_length(residual) / len(rows) / counts.clamp(min=1)
        keep = (1 - config.shrinkage * noise / around.square().sum(1).clamp(min=1e-300)).clamp(0, 1)
        shrunk.append((mean + keep[:, None] * around).float())
    return shrunk

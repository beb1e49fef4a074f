"""The sums behind ``report``: errors of reconstruction and purity, over items sorted by their codes, in blocks."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers.collisions.groups import Groups

_BLOCK = 1 << 21  # values at a time: 16 MiB of float64
_COLUMNS = 16  # features at a time where rows are gathered: one line of the cache in float32


class Decodes(Protocol):
    """What ``report`` asks of a tokenizer."""

    config: Any
    feature_dim: int | None

    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...
    def encode(self, features: Tensor) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...
    def targets(self, features: Tensor) -> Tensor: ...


def _rows(vectors: Tensor) -> int:
    return max(1, _BLOCK // vectors.shape[1])


def entropy(counts: Tensor) -> float:
    """Of the shares of ``counts``, in bits."""
    shares = counts[counts > 0].double() / int(counts.sum())
    return max(0.0, float(-(shares * shares.log2()).sum()))


def gini(counts: Tensor) -> float:
    """How unevenly ``counts`` is spread, see ``report``."""
    size, used = counts.numel(), counts[counts > 0].sort().values  # codes that nobody has come first, and add nothing
    weights = 2 * torch.arange(size - used.numel() + 1, size + 1) - size - 1
    total = int((weights * used).sum())  # in integers: exact
    return total / (size * int(used.sum()))


def scatter(vectors: Tensor) -> float:
    """Mean squared distance from the mean vector, per element; sums in float64."""
    blocks = vectors.split(_rows(vectors))
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / vectors.shape[0]
    return sum(float((block.double() - mean).square().sum()) for block in blocks) / vectors.numel()


def summed_errors(vectors: Tensor, codes: Tensor, codebooks: list[Tensor]) -> list[float]:
    """Per level, the mean squared residual per element after taking off its code's vector (float64)."""
    sums = [0.0] * len(codebooks)
    rows = _rows(vectors)
    for block, row in zip(vectors.split(rows), codes.split(rows), strict=True):
        residual = block.double()
        for level, book in enumerate(codebooks):
            residual = residual - book[row[:, level]]
            sums[level] += float(residual.square().sum())
    return [total / vectors.numel() for total in sums]


def decoded_errors(vectors: Tensor, codes: Tensor, tokenizer: Decodes, levels: int) -> list[float]:
    """Per prefix length, the mean squared difference per element from what ``tokenizer.decode`` gives."""
    sums = [0.0] * levels
    rows = _rows(vectors)
    for block, row in zip(vectors.split(rows), codes.split(rows), strict=True):
        for level in range(levels):
            decoded = tokenizer.decode(row[:, : level + 1])
            if decoded.shape != block.shape:
                raise InvalidValueError(
                    f"report: features must be [N, {decoded.shape[-1]}] as the tokenizer's, got {list(vectors.shape)}"
                )
            sums[level] += float((block.double() - decoded).square().sum())
    return [total / vectors.numel() for total in sums]


def group_errors(vectors: Tensor, groups: Groups, levels: int) -> list[float]:
    """Per prefix length, the mean squared distance per element from the mean of the item's prefix group.

    Sum of squares within = sum_i |x_i|^2 - sum_g |sum_{i in g} x_i|^2 / n_g, of vectors less their mean, in float64;
    sums of shorter prefixes are sums of those of longer ones.
    """
    starts = [groups.starts(length) for length in range(1, levels + 1)]
    counts = [groups.counts(length) for length in range(1, levels + 1)]
    # lengths of the runs to sum: sorted items per group of the longest prefix, then groups of one length per group of
    # the length before
    runs = [counts[-1]]
    for coarse, fine in itertools.pairwise(reversed(starts)):
        places = torch.searchsorted(coarse, fine)
        runs.append(torch.diff(places, append=torch.tensor([coarse.numel()])))
    total, between = 0.0, [0.0] * levels
    for first in range(0, vectors.shape[1], _COLUMNS):
        sums = vectors[:, first : first + _COLUMNS][groups.order].double()
        sums -= sums.mean(0)
        total += float(sums.square().sum())
        for level, run in zip(reversed(range(levels)), runs, strict=True):
            sums = torch.segment_reduce(sums, "sum", lengths=run, axis=0)
            between[level] += float((sums.square() / counts[level].unsqueeze(1)).sum())
    tiny = 1e-13 * total  # rounding, where the groups hold nothing but equal vectors
    return [(total - part if total - part > tiny else 0.0) / vectors.numel() for part in between]


def prefix_purity(groups: Groups, labels: Tensor, levels: int) -> list[tuple[float, float]]:
    """Per prefix length, the share of items with the most frequent label of their group, and the same by chance.

    Chance: the highest of 20 shuffles of the labels among the items of known label (seed 0; fewer where items are so
    many that shuffles hardly differ), so that of random IDs few look better.
    """
    sorted_labels = labels[groups.order]
    known = sorted_labels >= 0
    _, names = torch.unique(sorted_labels[known], return_inverse=True)
    kinds = int(names.max()) + 1
    generator = torch.Generator().manual_seed(0)
    shuffles = max(1, min(20, 2_000_000 // max(1, names.numel())))
    shuffled = [names[torch.randperm(names.numel(), generator=generator)] for _ in range(shuffles)]
    out = []
    for length in range(1, levels + 1):
        numbers = groups.numbers(length)
        group, most = numbers[known], int(numbers[-1]) + 1
        out.append(
            (_pure(group, names, kinds, most), max(_pure(group, by_chance, kinds, most) for by_chance in shuffled))
        )
    return out


def _pure(group: Tensor, names: Tensor, kinds: int, num_groups: int) -> float:
    keys, counts = torch.unique(group * kinds + names, return_counts=True)
    best = torch.zeros(num_groups, dtype=torch.int64).scatter_reduce_(0, keys // kinds, counts, "amax")
    return int(best.sum()) / group.numel()

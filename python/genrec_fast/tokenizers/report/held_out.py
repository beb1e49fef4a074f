"""What an item's codes tell of its features, as learned from the other items: an error that no item takes part in."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.tokenizers.collisions.groups import Groups

_COLUMNS = 16  # features at a time
_SHUFFLES, _VALUES = 20, 4_000_000  # at most, and values that all shuffles read


def shuffled(count: int, seed: int = 0) -> Tensor:
    """int64 ``[N]``: which item's codes each item gets by chance."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def prefixes_of(groups: Groups, levels: int) -> list[Tensor]:
    """Per length, int64 ``[N]``: the number of each item's prefix group, items in their own order."""
    out = []
    for length in range(1, levels + 1):
        numbers = torch.empty_like(groups.order)
        numbers[groups.order] = groups.numbers(length)
        out.append(numbers)
    return out


def held_out_errors(vectors: Tensor, codes: Tensor, prefixes: list[Tensor]) -> tuple[float, list[float]]:
    """Mean squared error per element of predicting each item from the others alone: without codes, and per length.

    The prediction starts from the mean of all others. Each level adds what is left of the others of the same code, and
    then of the others of the same prefix, a mean of n counting n / (n + 1): few neighbours are trusted little. Codes
    that mean something by themselves (sums of residuals, products) and codes that depend on those before (trees) are
    thus read alike, and an item whose prefix nobody shares is still predicted by its first codes.

    Args:
        vectors: float ``[N, F]``.
        codes: int64 ``[N, >= L]``.
        prefixes: as ``prefixes_of`` gives them, L of them.

    Notes:
        ``O(N L F)`` in float64, some columns at a time.
    """
    count = vectors.shape[0]
    steps: list[tuple[int, Tensor, Tensor]] = []  # level, group of each item, others in it + 1
    for level, prefix in enumerate(prefixes):
        for numbers in (codes[:, level],) if level == 0 else (codes[:, level], prefix):
            steps.append((level, numbers, torch.bincount(numbers)))
    nothing, errors = 0.0, [0.0] * len(prefixes)
    for first in range(0, vectors.shape[1], _COLUMNS):
        left = vectors[:, first : first + _COLUMNS].double()
        left = (left - left.mean(0)) * (count / max(1, count - 1))  # from the mean of the others
        nothing += float(left.square().sum())
        for place, (level, numbers, sizes) in enumerate(steps):
            sums = left.new_zeros(sizes.numel(), left.shape[1]).index_add_(0, numbers, left)
            left = left - (sums[numbers] - left) / sizes[numbers].unsqueeze(1)
            if place + 1 == len(steps) or steps[place + 1][0] != level:
                errors[level] += float(left.square().sum())
    return nothing / vectors.numel(), [total / vectors.numel() for total in errors]


def chance_held_out_errors(vectors: Tensor, codes: Tensor, prefixes: list[Tensor]) -> list[float]:
    """Per length, the least ``held_out_errors`` of up to 20 shuffles of the items' codes: few random IDs do better."""
    count = max(1, min(_SHUFFLES, _VALUES // max(1, vectors.numel() * len(prefixes))))
    found = []
    for seed in range(count):
        order = shuffled(len(codes), seed)
        found.append(held_out_errors(vectors, codes[order], [numbers[order] for numbers in prefixes])[1])
    return [min(errors) for errors in zip(*found, strict=True)]

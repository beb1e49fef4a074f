"""A balanced tree of clusters, grown for all nodes at once: k-means with two centres, cut at the fair share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 65536  # rows whose normals are gathered at once
_STILL = 1e-3  # part of the rows that may still change sides: the last rounds move few and cost as much as the first
_POWER_ROUNDS = 3  # towards the principal direction, where two-means begins


class Stage(NamedTuple):
    """One cut of every group into two: a row goes left where ``x normal <= threshold``.

    ``normals`` float32 ``[P, F]``; per group (of S): ``plane`` int32 (row of normals, -1: everything goes left),
    ``threshold`` float64, ``left`` int32 (the group it becomes; the right one is the next).
    """

    normals: Tensor
    plane: Tensor
    threshold: Tensor
    left: Tensor


class Level(NamedTuple):
    """One level of codes: its cuts, and the groups they lead to, in the order of (parent, code).

    Per group ``parents`` int32 (a group of the level before), ``codes`` int32, and ``centroids`` float32 ``[S, F]``,
    the means of its rows.
    """

    stages: list[Stage]
    parents: Tensor
    codes: Tensor
    centroids: Tensor


def grow(
    x: Tensor,
    branching: tuple[int, ...],
    *,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[list[Level], Tensor]:
    """A tree whose groups of one parent differ by at most one row.

    ::

        for level, for each group of n rows: children 0 .. K - 1 get n // K rows, the first n % K one more, by halving:
            w = principal direction
            repeat: left = the rows of the smallest x w, as many as its children get; w = mean(right) - mean(left)

    With two centres, sorting by ``x w`` and cutting at the share is the best assignment of that size, so a round never
    raises the sum of squared distances.

    Args:
        x: float32 ``[N, F]``, finite, N at least 1.
        branching: K of each level.
        iterations: rounds per cut, at most (fewer once almost nothing moves).
        generator: of the first directions.
        progress: called after each level with (levels done, levels, mean squared distance per element).

    Returns:
        The levels, and int32 ``[N, L]``: the codes of the rows.

    Notes:
        Equal inputs give equal bits. Levels times log2(K) cuts of ``iterations`` passes over x and two sorts of N
        numbers each, whatever the number of groups; memory beside x: a block of 65,536 rows, 40 bytes a row, and the
        tree: F numbers per group and cut.
    """
    count = len(x)
    order, lengths = torch.arange(count), torch.tensor([count])
    codes = torch.empty(count, len(branching), dtype=torch.int32)
    levels: list[Level] = []
    for level, width in enumerate(branching):
        parents = torch.arange(len(lengths))
        first, children = torch.zeros_like(lengths), torch.full_like(lengths, width)
        stages = []
        while int(children.max()) > 1:
            order, stage, lengths, parents, first, children = _cut(
                x, order, lengths, parents, first, children, iterations, generator
            )
            stages.append(stage)
        groups = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        codes[order, level] = first[groups].to(torch.int32)
        centroids, error = _means(x, order, groups, lengths)
        levels.append(Level(stages, parents.to(torch.int32), first.to(torch.int32), centroids))
        if progress is not None:
            progress(level + 1, len(branching), error)
    return levels, codes


def descend(x: Tensor, levels: list[Level]) -> Tensor:
    """Codes int32 ``[m, L]`` of any rows float32 ``[m, F]``.

    The tree's own rows get their own codes, except where a cut separated rows of equal places.
    """
    out = []
    for rows in x.split(_BLOCK):
        group = torch.zeros(len(rows), dtype=torch.int64)
        columns = []
        for level in levels:
            for stage in level.stages:
                plane = stage.plane[group].long()
                cut = (plane >= 0).nonzero()[:, 0]
                right = torch.zeros(len(rows), dtype=torch.int64)
                if len(cut):
                    place = _project(rows[cut], stage.normals[plane[cut]])
                    right[cut] = (place > stage.threshold[group[cut]]).long()
                group = stage.left[group].long() + right
            columns.append(level.codes[group])
        out.append(torch.stack(columns, 1))
    return torch.cat(out) if out else torch.empty(0, len(levels), dtype=torch.int32)


def _project(rows: Tensor, normals: Tensor) -> Tensor:
    """float64 ``[m]``: one dot product per row."""
    products: Tensor = torch.linalg.vecdot(rows.double(), normals.double())
    return products


def _cut(
    x: Tensor,
    order: Tensor,
    lengths: Tensor,
    parents: Tensor,
    first: Tensor,
    children: Tensor,
    iterations: int,
    generator: torch.Generator,
) -> tuple[Tensor, Stage, Tensor, Tensor, Tensor, Tensor]:
    """Halves every group that has more than one child to become; groups without rows are not kept."""
    half = (children + 1) // 2
    share = half * (lengths // children) + torch.minimum(half, lengths % children)  # rows that go left
    real = (share < lengths) & (children > 1)
    group = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    moving = real[group]
    local = torch.cumsum(real, 0) - 1  # number of a group among the real ones
    rows, mine = order[moving], local[group[moving]]
    normals = torch.randn(int(real.sum()), x.shape[1], generator=generator)
    threshold = torch.full((len(lengths),), torch.inf, dtype=torch.float64)
    if len(rows):
        sizes, lefts = lengths[real], share[real]
        normals = _two_means(x, rows, mine, normals, sizes, lefts, iterations)
        place = _places(x, rows, mine, normals, exact=True)
        ranked = _ranked(place, mine)
        rows, place = rows[ranked], place[ranked]
        starts = torch.cumsum(sizes, 0) - sizes
        low, high = place[starts + lefts - 1], place[starts + lefts]
        threshold[real] = torch.where(low < high, low + (high - low) / 2, low).clamp(max=high)
        order = order.clone()
        order[moving] = rows
    left = torch.cumsum(1 + real.long(), 0) - 1 - real.long()
    stage = Stage(normals, torch.where(real, local, -1).to(torch.int32), threshold, left.to(torch.int32))
    twice = torch.repeat_interleave(torch.arange(len(lengths)), 1 + real.long())
    second = torch.zeros_like(twice, dtype=torch.bool)
    second[left[real] + 1] = True
    new_lengths = torch.where(second, lengths[twice] - share[twice], torch.where(real, share, lengths)[twice])
    new_first = first[twice] + torch.where(second, half[twice], 0)
    # A group of which all rows went left keeps the left children; nothing can reach the others.
    new_children = torch.where(second, (children - half)[twice], torch.where(children > 1, half, children)[twice])
    return order, stage, new_lengths, parents[twice], new_first, new_children


def _two_means(
    x: Tensor, rows: Tensor, mine: Tensor, normals: Tensor, sizes: Tensor, lefts: Tensor, iterations: int
) -> Tensor:
    """Normals float32 ``[P, F]`` of the cuts: mean of the right less mean of the left, once almost nothing moves."""
    means = _sums(x, rows, mine, None, len(sizes)) / sizes[:, None]
    for _ in range(_POWER_ROUNDS):
        shift = torch.linalg.vecdot(means, normals.double())
        place = _places(x, rows, mine, normals, exact=False).double() - shift[mine]
        # sum of (x - mean) ((x - mean) w): the places of a group sum to 0, so the mean drops out.
        step = _sums(x, rows, mine, place, len(sizes))
        length = step.norm(dim=1, keepdim=True)
        normals = torch.where(length > 0, step / length.clamp(min=1e-300), normals.double()).float()
    starts = torch.cumsum(sizes, 0) - sizes
    before: Tensor | None = None
    total = means * sizes[:, None]
    for _ in range(iterations):
        ranked = _ranked(_places(x, rows, mine, normals, exact=False), mine)
        on_left = torch.empty(len(rows), dtype=torch.bool)
        on_left[ranked] = torch.arange(len(rows)) - starts[mine] < lefts[mine]
        if before is not None and int((on_left != before).sum()) <= _STILL * len(rows):
            break
        before = on_left
        sums = _sums(x, rows[on_left], mine[on_left], None, len(sizes))
        found = (total - sums) / (sizes - lefts)[:, None] - sums / lefts[:, None]
        moved = found.abs().amax(1, keepdim=True) > 0  # equal rows: any direction
        normals = torch.where(moved, found, normals.double()).float()
    return normals


def _ranked(place: Tensor, groups: Tensor) -> Tensor:
    """Positions in the order of (group, place); equal places stay in order."""
    by_place = torch.sort(place, stable=True).indices
    return by_place[torch.sort(groups[by_place], stable=True).indices]


def _places(x: Tensor, rows: Tensor, mine: Tensor, normals: Tensor, *, exact: bool) -> Tensor:
    """``x w`` of each row with its group's normal; as ``descend`` computes it where it must be exact."""
    blocks = []
    for part, group in zip(rows.split(_BLOCK), mine.split(_BLOCK), strict=True):
        vectors, directions = x[part], normals[group]
        blocks.append(_project(vectors, directions) if exact else torch.linalg.vecdot(vectors, directions))
    return torch.cat(blocks)


def _sums(x: Tensor, rows: Tensor, mine: Tensor, weights: Tensor | None, groups: int) -> Tensor:
    """float64 ``[groups, F]``: weighted sums of rows, in their order."""
    total = torch.zeros(groups, x.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        vectors = x[rows[part]].double()
        total.index_add_(0, mine[part], vectors if weights is None else vectors * weights[part, None])
    return total


def _means(x: Tensor, order: Tensor, groups: Tensor, lengths: Tensor) -> tuple[Tensor, float]:
    means = (_sums(x, order, groups, None, len(lengths)) / lengths[:, None]).float()
    error = 0.0
    for part, group in zip(order.split(_BLOCK), groups.split(_BLOCK), strict=True):
        error += float((x[part] - means[group]).double().square().sum())
    return means, error / x.numel()

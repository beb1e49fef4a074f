"""Whether features are more than noise: without structure in them, codes that are fitted to them mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genrec_fast.tokenizers.clustering.kmeans import kmeans
from genrec_fast.tokenizers.report.held_out import held_out_errors

_SAMPLE = 500  # items: on real features the figures are then eight or more deviations from noise
_FEWEST = 20
_NEAREST = 3
_CLUSTERS, _AXES, _TRIES = 4, 32, 2  # clusters of so few kinds lie in few axes
_DRAWS = 8  # of noise, of either kind
_SURE, _DOUBTFUL, _LEAST = 4.0, 2.0, 0.05


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How far features are from noise; see ``structure``."""

    neighbours: float
    """share of the features that an item's neighbours, by the other half of the axes, tell of it"""
    chance_neighbours: float
    """the same for noise of the same columns"""
    clusters: float
    """share of the features that four clusters explain of items held out"""
    chance_clusters: float
    deviations: float
    """the larger distance from noise, in standard deviations of noise"""
    found: Literal["yes", "perhaps", "no"]

    def __str__(self) -> str:
        return (
            f"neighbours by half of the axes tell {self.neighbours:.1%} of the rest ({self.chance_neighbours:.1%} in "
            f"noise), four clusters {self.clusters:.1%} ({self.chance_clusters:.1%})"
        )


def structure(vectors: Tensor) -> Structure | None:
    """Compares features with noise that has the same columns, on 500 items.

    ::

        x = the items along their principal axes; A, B = every second axis
        neighbours = sum_i <b_i, mean of b_j over the 3 items j nearest to i in A> / sum_i |b_i|^2    and A, B swapped
        clusters = 1 - held-out error of 4 means / held-out error of the mean                         of k-means

    Axes have no linear dependence, so in Gaussian noise of any covariance, and in scaled or turned noise, what is near
    along some axes is anywhere along the others. Kinds of items are near along all of them. A few kinds fill too few
    axes for that; four clusters find them. Both figures depend on the number of items and columns, so noise of the same
    size stands beside each: columns shuffled among the items, features themselves and along the axes (``clusters``:
    Gaussian numbers of the same variances), the higher mean of the two. It is drawn 8 times each.

    A refit of the tokenizer itself to such noise tells less: of 100 items RQ k-means explains .17 of sentence vectors
    held out and .08 of their noise, and of 16 columns of noise .33 and .26. Here, the same 100 are five deviations or
    more from noise, and noise up to three.

    Args:
        vectors: float32 ``[N, F]``.

    Returns:
        ``found`` is "yes" for a figure 4 deviations and .05 above noise, "no" where both are below 2 deviations.
        ``None``: fewer than 20 items, or all on one line, which tells nothing.

    Notes:
        At most 500 items, whatever N: about a second for 384 columns on one core. Deterministic.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(vectors.shape[0], generator=generator)[:_SAMPLE]
    items = vectors[chosen].double()
    items = items / items.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    if items.shape[0] < _FEWEST or (axes := _axes(items)).shape[1] < 2:
        return None
    near, spread = _neighbours(axes, generator)
    grouped = _clusters(axes[:, :_AXES])
    mixed = [_axes(_mixed(items, generator)) for _ in range(_DRAWS)]
    turned = [_axes(_mixed(axes, generator)) for _ in range(_DRAWS)]
    deviations = axes[:, :_AXES].square().mean(0).sqrt()
    normal = [torch.randn(len(axes), len(deviations), generator=generator) * deviations for _ in range(_DRAWS)]
    chance_near, far = _noise(lambda noise: _neighbours(noise)[0], mixed, turned)
    chance_grouped, wide = _noise(_clusters, [noise[:, :_AXES] for noise in mixed], normal)
    distances = [(near - chance_near, max(spread, far)), (grouped - chance_grouped, wide)]
    most = max(above / max(deviation, 1e-9) for above, deviation in distances)
    sure = any(above >= _LEAST and above >= _SURE * deviation for above, deviation in distances)
    return Structure(
        neighbours=near,
        chance_neighbours=chance_near,
        clusters=grouped,
        chance_clusters=chance_grouped,
        deviations=most,
        found="yes" if sure else "perhaps" if most >= _DOUBTFUL else "no",
    )


def _axes(items: Tensor) -> Tensor:
    """float64 ``[n, axes]``: along the principal axes, the widest first, axes without extent left out."""
    left = items - items.mean(0)
    if items.shape[0] > items.shape[1]:
        along = left @ torch.linalg.eigh(left.T @ left)[1]
    else:  # the same from the products of items
        values, vectors = torch.linalg.eigh(left @ left.T)
        along = vectors * values.clamp(min=0).sqrt()
    along = along.flip(1)
    extent = along.square().sum(0)
    wide: Tensor = along[:, extent > 1e-9 * extent[:1].clamp(min=1e-18)]
    return wide


def _mixed(items: Tensor, generator: torch.Generator) -> Tensor:
    """Every column shuffled by itself."""
    return items.gather(0, torch.rand(items.shape, generator=generator).argsort(0))


def _noise(figure: Callable[[Tensor], float], *kinds: list[Tensor]) -> tuple[float, float]:
    """The higher mean of two kinds of noise, and the larger deviation."""
    figures = torch.tensor([[figure(noise) for noise in draws] for draws in kinds], dtype=torch.float64)
    return float(figures.mean(1).max()), float(figures.std(1).max())


def _neighbours(axes: Tensor, generator: torch.Generator | None = None) -> tuple[float, float]:
    """The figure, and with a generator its deviation where the two halves are paired by chance."""
    halves = axes[:, 0::2], axes[:, 1::2]
    total = float(axes.square().sum())
    pairs = []
    for near, told in (halves, halves[::-1]):
        lengths = near.square().sum(1)
        distances = lengths - 2 * near @ near.T  # but for each item's own length
        distances.fill_diagonal_(torch.inf)
        pairs.append((told, distances.topk(_NEAREST, largest=False).indices))
    figures = [sum(_told(told, nearest) for told, nearest in pairs) / total]
    for _ in range(0 if generator is None else 20):
        order = torch.randperm(len(axes), generator=generator)
        figures.append(sum(_told(told[order], nearest) for told, nearest in pairs) / total)
    return figures[0], float(torch.tensor(figures[1:]).std()) if len(figures) > 1 else 0.0


def _told(told: Tensor, nearest: Tensor) -> float:
    return float((told * told[nearest].mean(1)).sum())


def _clusters(items: Tensor) -> float:
    """Of two runs of k-means the better."""
    rows = items.float().contiguous()
    best = 0.0
    for seed in range(_TRIES):
        labels = kmeans(rows, _CLUSTERS, iterations=10, seed=seed).labels.long()
        nothing, (error,) = held_out_errors(rows, labels[:, None], [labels])
        best = max(best, 1 - error / nothing)
    return best

"""S2GR's loss: codes, thoughts near the cluster of the code that follows, and a first thought of the whole item."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast import ops
from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.catalog.catalog import Catalog

_ROUNDS = 25  # of k-means over a level's codes, which mostly stands still earlier


class Thinking(Protocol):
    """A backbone that thinks before each code, such as ``backbones.S2GR``."""

    anchors: nn.Module

    def think(self, batch: Batch) -> Any:
        """Of M targets: ``logits`` per level ``[M, K_l]``, ``thoughts [M, L, D]``, ``interest``, ``meant [M, D]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class GuidedThoughtsConfig:
    """Settings of ``GuidedThoughts``."""

    num_groups: int = 16  # clusters of a level's codes, at most as many as it uses
    temperature: float = 0.1  # of the cosines, in both contrasts
    weight: float = 0.1  # of the first thought's distance from what is meant

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, catalog: Catalog) -> GuidedThoughts:
        """For a catalog with features and semantic IDs, whose codes are clustered.

        Raises:
            InvalidValueError: it lacks one of them.
        """
        return GuidedThoughts(self, catalog)


class GuidedThoughts(Objective):
    """Next-code prediction by a network that thinks, and what its thoughts shall be near.

    ::

        codes      mean over targets and levels of -log p(code)
        align_l    mean of -log( exp(cos(t_l, a(c_g)) / tau) / sum_k exp(cos(t_l, a(c_k)) / tau) ),  summed over levels
        interest   mean of -log( exp(cos(v, m) / tau) / sum over the batch's m' of exp(cos(v, m') / tau) )
        first      mean of 1 - cos(t_0, v without gradient)
        loss     = codes + align + interest + weight * first

    t_l is the thought before level l, c_k the centres of clusters of that level's codes and g the cluster of the true
    one, a the backbone's ``anchors``; v is what its small decoder says, m the mean of a target's code embeddings.

    A code's vector is the mean, over the items that have it, of their feature vectors less what the codes of the levels
    before account for: the codebook that residual k-means would have. So clusters need a catalog alone, whatever
    tokenizer its semantic IDs came from. They are made once, at the first loss, by k-means from codes far apart, in 24
    bytes for each number of the features; nothing is drawn.

    Source: S2GR (arXiv:2601.18664), its stepwise reasoning; the numbers of clusters, tau and the weight are ours.
    """

    needs = Thinking

    def __init__(self, config: GuidedThoughtsConfig, catalog: Catalog) -> None:
        if catalog.features is None or catalog.item_codes is None:
            missing = "features" if catalog.features is None else "item_codes"
            raise InvalidValueError(f"GuidedThoughts: catalog must have {missing}, got None")
        self.config, self.catalog = config, catalog

    @functools.cached_property
    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Per level int64 ``[K_l]``, the cluster of each code, and float32 ``[G, F]``, the clusters' centres."""
        catalog = self.catalog
        assert catalog.item_codes is not None
        assert catalog.features is not None
        vectors = code_vectors(catalog.item_codes.long().cpu(), catalog.features.cpu(), catalog.codebook_sizes)
        return [grouped(level, self.config.num_groups) for level in vectors]

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; figures: its four terms."""
        codes = batch.target_codes
        if codes is None or codes.shape[0] == 0:
            raise InvalidValueError("GuidedThoughts: batch must have targets, got none")
        backbone, tau, device = system.backbone, self.config.temperature, codes.device
        made = backbone.think(batch)
        written = [F.cross_entropy(logits.float(), codes[:, level]) for level, logits in enumerate(made.logits)]
        aligned = []
        for level, (labels, centres) in enumerate(self.groups):
            anchors = backbone.anchors(F.normalize(centres.to(device), dim=1))
            wanted = labels.to(device)[codes[:, level]]
            aligned.append(F.cross_entropy(cosines(made.thoughts[:, level], anchors) / tau, wanted))
        meant = cosines(made.interest, made.meant) / tau
        first = 1.0 - F.cosine_similarity(made.thoughts[:, 0].float(), made.interest.detach().float(), dim=1).mean()
        parts = {
            "codes": torch.stack(written).mean(),
            "align": torch.stack(aligned).sum(),
            "interest": F.cross_entropy(meant, torch.arange(len(codes), device=device)),
            "first": first,
        }
        value = parts["codes"] + parts["align"] + parts["interest"] + self.config.weight * first
        return Loss(value, codes.shape[0], {f"loss_{name}": float(part.detach()) for name, part in parts.items()})


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """``[n, D]`` and ``[m, D]`` -> ``[n, m]``."""
    return F.normalize(one.float(), dim=1) @ F.normalize(other.float(), dim=1).T


def code_vectors(codes: Tensor, features: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """What each code of each level adds to the mean of an item's features.

    Args:
        codes: int64 ``[N, L]``.
        features: float ``[N, F]``.
        sizes: K of each level.

    Returns:
        Per level float64 ``[K_l, F]``: the mean of what the levels before leave of the items that have the code; NaN
        for a code that no item has.
    """
    left, found = features.double() - features.double().mean(0), []
    for level, size in enumerate(sizes):
        sums = left.new_zeros(size, left.shape[1]).index_add_(0, codes[:, level], left)
        means = sums / torch.bincount(codes[:, level], minlength=size)[:, None]
        found.append(means)
        left = left - means[codes[:, level]]
    return found


def grouped(vectors: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """k-means of a level's codes, from codes far apart: the first one, and then always the one farthest from all.

    Args:
        vectors: float64 ``[K, F]``; rows of NaN belong to cluster 0 and shape none.
        num_groups: clusters, at most; no more than there are codes with a vector.

    Returns:
        int64 ``[K]`` clusters, and float32 ``[G, F]`` their centres.
    """
    used = ~vectors.isnan().any(1)
    known = vectors[used].float()
    chosen = [0]
    nearest = (known - known[0]).square().sum(1)
    while len(chosen) < min(num_groups, len(known)):
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum((known - known[chosen[-1]]).square().sum(1))
    centres = known[chosen]
    for _ in range(_ROUNDS):
        step = ops.kmeans_step(known, centres)
        means = (step.sums / step.counts.clamp(min=1)[:, None]).float()
        moved = means.where(step.counts[:, None] > 0, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    labels = torch.zeros(len(vectors), dtype=torch.int64)
    labels[used] = ops.kmeans_step(known, centres).labels.long()
    return labels, centres

"""Items that share a semantic ID are pushed apart: the uniqueness loss of HiD-VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.base.config import check_fields
from genrec_fast.tokenizers.regularisers.base import CodedBatch, FitContext, Regulariser


@dataclass(frozen=True, kw_only=True)
class UniquenessConfig:
    """Uniqueness loss of HiD-VAE (arXiv:2508.04618).

    ::

        L = mean over pairs i < j of a batch with equal codes on all levels of  max(0, cos(h_i, h_j) - margin)

    h is what was coded; 0 where no two items of the batch share their codes.
    """

    weight: float = 0.5
    """relative to the reconstruction error, which is 1 per element before training (HiD-VAE: 0.5, in other units)"""
    margin: float = 0.5
    """the cosine above which a pair counts, in [0, 1) (HiD-VAE: 0.5)"""
    learned_codebooks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, within={"margin": "[0, 1)"})

    def build(self, context: FitContext) -> Uniqueness:
        return Uniqueness(self)


class Uniqueness(Regulariser):
    """See ``UniquenessConfig``; O(B^2)."""

    def __init__(self, config: UniquenessConfig) -> None:
        super().__init__()
        self.margin = config.margin

    def forward(self, batch: CodedBatch) -> Tensor:
        latent = batch.latent[: batch.size]
        _, group = torch.unique(batch.codes[: batch.size], dim=0, return_inverse=True)
        same = (group[:, None] == group).triu(1)
        first, second = same.nonzero().unbind(1)
        if not len(first):
            return latent.sum() * 0
        unit = nn.functional.normalize(latent, dim=1)
        cosines = (unit[first] * unit[second]).sum(1)
        return (cosines - self.margin).relu().mean()

"""Codes that spread: the diversity regularization of LETTER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.base.config import check_fields
from genrec_fast.tokenizers.clustering.kmeans import kmeans
from genrec_fast.tokenizers.regularisers.base import CodedBatch, FitContext, Regulariser, Similarity


@dataclass(frozen=True, kw_only=True)
class DiversityConfig:
    """Diversity regularization of LETTER (arXiv:2405.07314).

    ::

        L = - mean over levels and items of  log( exp(s(e_c, e_+)) / sum_{j != c} exp(s(e_c, e_j)) )

    e_c is the code vector of the item's code, e_+ a code drawn from the same group of codes, e_j all codes of the level
    but c; s is the cosine over ``temperature``. Groups of one size come from balanced k-means of the codebook, anew
    every ``regroup_every`` steps. Codes of one group are drawn together and groups apart, so that none lies where all
    items are.

    It acts through the codebooks: they must learn by gradient (``RQVAEConfig(decay=None)``).
    """

    weight: float = 0.01
    """relative to the reconstruction error, which is 1 per element before training (ours)"""
    groups: int = 10
    """groups of codes per level (LETTER: 10); at most half the codes of a level are taken"""
    temperature: float = 1.0
    """of the cosines (ours)"""
    regroup_every: int = 100
    """steps between two groupings (ours)"""
    similarity: Similarity = "cosine"
    """s; "product": plain inner products over the temperature, as LETTER has them"""
    learned_codebooks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, context: FitContext) -> Diversity:
        return Diversity(self, context)


class Diversity(Regulariser):
    """See ``DiversityConfig``."""

    def __init__(self, config: DiversityConfig, context: FitContext) -> None:
        super().__init__()
        self.config, self.generator = config, context.generator
        self.labels: list[Tensor] = []
        self.steps = 0

    def forward(self, batch: CodedBatch) -> Tensor:
        if self.steps % self.config.regroup_every == 0:
            self.labels = [self._group(book.detach().cpu().float()) for book in batch.codebooks]
        self.steps += 1
        terms = [
            self._level(book, batch.codes[: batch.size, level], self.labels[level])
            for level, book in enumerate(batch.codebooks)
        ]
        return torch.stack(terms).mean()

    def _group(self, codebook: Tensor) -> Tensor:
        groups = max(1, min(self.config.groups, codebook.shape[0] // 2))
        seed = int(torch.randint(1 << 31, (), generator=self.generator))
        return kmeans(codebook, groups, iterations=10, balance="capacity", seed=seed).labels.long()

    def _level(self, codebook: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        chosen = self._another(labels, codes.cpu())
        kept = (chosen >= 0).to(codes.device)
        codes, chosen = codes[kept], chosen.to(codes.device)[kept]
        if not len(codes):
            return codebook.sum() * 0
        vectors = nn.functional.normalize(codebook, dim=1) if self.config.similarity == "cosine" else codebook
        logits = vectors[codes] @ vectors.T / self.config.temperature
        logits = logits.scatter(1, codes[:, None], float("-inf"))
        return nn.functional.cross_entropy(logits, chosen)

    def _another(self, labels: Tensor, codes: Tensor) -> Tensor:
        """Another code of each code's group, int64 ``[B]``; -1 where it is alone."""
        order = labels.argsort(stable=True)
        counts = torch.bincount(labels)
        first = counts.cumsum(0) - counts
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order)) - first[labels[order]]
        others = counts[labels[codes]] - 1
        drawn = (torch.rand(len(codes), generator=self.generator, dtype=torch.float64) * others).long()
        drawn = drawn.clamp_max(others - 1) + (drawn >= place[codes]).long()
        return torch.where(others > 0, order[(first[labels[codes]] + drawn).clamp_min(0)], -1)

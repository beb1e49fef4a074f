"""Codes that know who interacted with what: alignment (LETTER) and co-occurrence (COSETTE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.tokenizers.co_occurrence import check_histories, collaborative_vectors
from genrec_fast.tokenizers.regularisers.base import (
    CodedBatch,
    FitContext,
    Regulariser,
    Similarity,
    contrast,
)


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Collaborative contrastive alignment of LETTER (arXiv:2405.07314, "collaborative regularization").

    ::

        L = - mean_i log( exp(s(z_i, h_i)) / sum_j exp(s(z_i, h_j)) ),   s(z, h) = cos(z, h) / temperature

    z_i is the sum of item i's code vectors, h_i its collaborative vector, of the same width; i and j run over the items
    of the batch that have a collaborative vector. LETTER takes h from a trained SASRec or LightGCN; here h comes from
    the training split's histories (``collaborative_vectors``). The cosine makes units fit.
    """

    weight: float = 0.3
    """relative to the reconstruction error, which is 1 per element before training (ours: LETTER's alpha weighs other
    units)"""
    temperature: float = 0.1
    """of the cosines (ours)"""
    window: int = 5
    """places in a history within which two items count as together (ours)"""
    similarity: Similarity = "cosine"
    """s; "product": plain inner products over the temperature, as LETTER has them"""
    learned_codebooks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, context: FitContext) -> Alignment:
        return Alignment(self, context)


class Alignment(Regulariser):
    """See ``AlignmentConfig``."""

    def __init__(self, config: AlignmentConfig, context: FitContext) -> None:
        super().__init__()
        self.temperature, self.similarity = config.temperature, config.similarity
        seed = int(torch.randint(1 << 31, (), generator=context.generator))
        vectors = collaborative_vectors(
            _histories("Alignment", context),
            context.num_items,
            width=context.latent_dim,
            window=config.window,
            seed=seed,
        )
        self.vectors: Tensor
        self.register_buffer("vectors", vectors)

    def forward(self, batch: CodedBatch) -> Tensor:
        targets = self.vectors[batch.items[: batch.size]]
        known = targets.abs().sum(1) > 0
        vectors = batch.prefixes[-1][: batch.size][known]
        return contrast(vectors, targets[known], self.temperature, similarity=self.similarity)


@dataclass(frozen=True, kw_only=True)
class CoOccurrenceConfig:
    """Collaborative loss in the manner of COSETTE (arXiv:2508.14910): items of one history get codes near each other.

    ::

        L = - mean_i log( exp(cos(z_i, z_p(i)) / t) / sum_j exp(cos(z_i, z_p(j)) / t) )

    z is the sum of an item's code vectors; p(i) is an item drawn from within ``window`` places of i in a training
    history, coded with the batch. A p(j) that is p(i) or i itself is excluded from the negatives. The paper trains
    reconstruction and a contrastive collaborative term jointly; this form of that term (in-batch softmax, drawn
    neighbours) is ours.
    """

    weight: float = 0.3
    """relative to the reconstruction error, which is 1 per element before training (ours)"""
    temperature: float = 0.1
    """of the cosines (ours)"""
    window: int = 5
    """places in a history from which neighbours are drawn (ours)"""
    learned_codebooks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, context: FitContext) -> CoOccurrence:
        return CoOccurrence(self, context)


class CoOccurrence(Regulariser):
    """See ``CoOccurrenceConfig``."""

    def __init__(self, config: CoOccurrenceConfig, context: FitContext) -> None:
        super().__init__()
        self.temperature, self.generator = config.temperature, context.generator
        self.neighbours = _Neighbours(_histories("CoOccurrence", context), context.num_items, config.window)
        self.anchors = torch.empty(0, dtype=torch.int64)  # rows of the batch that have a neighbour in this step

    def ask(self, items: Tensor) -> Tensor:
        found = self.neighbours.draw(items, self.generator)
        self.anchors = (found >= 0).nonzero().squeeze(1)
        return found[self.anchors]

    def forward(self, batch: CodedBatch) -> Tensor:
        vectors = batch.prefixes[-1]
        anchors = self.anchors.to(vectors.device)
        partners = batch.items[batch.asked]
        hidden = (partners[:, None] == partners) | (batch.items[anchors][:, None] == partners)
        hidden.fill_diagonal_(fill_value=False)
        return contrast(vectors[anchors], vectors[batch.asked], self.temperature, hidden)


class _Neighbours:
    """Draws an item that stands near another one in a history."""

    def __init__(self, histories: Jagged, num_items: int, window: int) -> None:
        self.values, self.window = histories.values.long().cpu(), window
        users = histories.row_index().cpu()
        self.starts, self.ends = histories.offsets.cpu()[users], histories.offsets.cpu()[users + 1]
        lonely = self.ends - self.starts < 2
        places = (~lonely).nonzero().squeeze(1)
        self.places = places[self.values[places].argsort(stable=True)]  # by item
        self.counts = torch.bincount(self.values[places], minlength=num_items)
        self.first = self.counts.cumsum(0) - self.counts

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """int64 ``[B]``; -1 where an item has no neighbour, or itself was drawn."""
        out = torch.full_like(items, -1)
        counts = self.counts[items]
        rows = (counts > 0).nonzero().squeeze(1)
        chance = torch.rand(2, len(rows), generator=generator, dtype=torch.float64)
        which = (chance[0] * counts[rows]).long().clamp_max(counts[rows] - 1)
        place = self.places[self.first[items[rows]] + which]
        low = torch.maximum(self.starts[place], place - self.window)
        high = torch.minimum(self.ends[place], place + self.window + 1)  # one of [low, high), without place
        drawn = low + (chance[1] * (high - low - 1)).long().clamp_max(high - low - 2)
        drawn += (drawn >= place).long()
        found = self.values[drawn]
        out[rows] = torch.where(found == items[rows], -1, found)
        return out


def _histories(name: str, context: FitContext) -> Jagged:
    if context.histories is None:
        raise InvalidValueError(f"{name}: histories (of the training split) must be given to fit, got None")
    check_histories(name, context.histories, context.num_items)
    return context.histories

"""Codes that keep what items are: contrastive reconstruction (CoST) and tags per level (HiD-VAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.base.checks import check_integers
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers.regularisers.base import (
    CodedBatch,
    FitContext,
    Regulariser,
    contrast,
)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Contrastive reconstruction of CoST (arXiv:2404.14774): decoded vectors are nearer to their item than to others.

    ::

        L = - mean_i log( exp(cos(x'_i, x_i) / t) / sum_j exp(cos(x'_i, x_j) / t) )

    x_i is an item's (scaled) feature vector, x'_i what the decoder makes of its codes; j runs over the batch, where
    equal feature vectors are excluded from the negatives. CoST puts it in place of the reconstruction error:
    ``RQVAEConfig(reconstruction_weight=0.0)``.
    """

    weight: float = 0.3
    """relative to the reconstruction error, which is 1 per element before training (ours)"""
    temperature: float = 0.1
    """of the cosines (ours)"""
    learned_codebooks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, context: FitContext) -> Contrastive:
        return Contrastive(self)


class Contrastive(Regulariser):
    """See ``ContrastiveConfig``."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.temperature = config.temperature

    def forward(self, batch: CodedBatch) -> Tensor:
        features = batch.features[: batch.size]
        _, kind = torch.unique(features, dim=0, return_inverse=True)
        hidden = kind[:, None] == kind
        hidden.fill_diagonal_(fill_value=False)
        return contrast(batch.reconstruction[: batch.size], features, self.temperature, hidden)


@dataclass(frozen=True, kw_only=True)
class TagSupervisionConfig:
    """Tag supervision per level, of HiD-VAE (arXiv:2508.04618): the first l + 1 codes predict the l-th tag.

    ::

        L = mean over levels l of  mean_i cross_entropy(W_l z_i,l + b_l, tag_i,l)

    z_i,l is the sum of the code vectors of levels 0 .. l, tag_i,l the l-th column of ``categories`` (coarse first);
    items without that tag (-1) are left out, as are levels beyond the categories' depth. This is the paper's
    classification of tags by a linear head per level; its alignment with embeddings of the tags' text and its
    uniqueness loss are not here.
    """

    weight: float = 0.3
    """relative to the reconstruction error, which is 1 per element before training (ours)"""
    learned_codebooks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, context: FitContext) -> TagSupervision:
        return TagSupervision(context)


class TagSupervision(Regulariser):
    """See ``TagSupervisionConfig``."""

    def __init__(self, context: FitContext) -> None:
        super().__init__()
        tags = _checked(context.categories, context.num_items)[:, : len(context.codebook_sizes)]
        self.tags: Tensor
        self.register_buffer("tags", tags)
        self.heads = nn.ModuleList()
        for column in tags.T:
            head = nn.utils.skip_init(nn.Linear, context.latent_dim, max(1, int(column.max()) + 1))
            nn.init.zeros_(head.bias)
            nn.init.normal_(head.weight, std=context.latent_dim**-0.5, generator=context.generator)
            self.heads.append(head)

    def forward(self, batch: CodedBatch) -> Tensor:
        tags = self.tags[batch.items[: batch.size]]
        losses = []
        for level, head in enumerate(self.heads):
            known = tags[:, level] >= 0
            logits = head(batch.prefixes[level][: batch.size][known])
            total = nn.functional.cross_entropy(logits, tags[known, level], reduction="sum")
            losses.append(total / known.sum().clamp_min(1))
        return torch.stack(losses).mean()


def _checked(categories: Tensor | None, num_items: int) -> Tensor:
    if categories is None:
        raise InvalidValueError("TagSupervision: categories must be given to fit, got None")
    check_integers("TagSupervision", "categories", categories, "[N, depth]")
    if categories.dim() != 2 or categories.shape[0] != num_items or categories.shape[1] < 1:
        raise InvalidValueError(
            f"TagSupervision: categories must be [{num_items}, depth], got {list(categories.shape)}"
        )
    if int(categories.min()) < -1:
        raise InvalidValueError(f"TagSupervision: categories must be at least -1, got {int(categories.min())}")
    return categories.long().cpu()

"""Items are tokenized anew while the recommender learns: an epoch of the one, an epoch of the other, new codes.

A residual quantizer starts where the recipe's tokenizer ended. In its own epochs it learns to describe the items
(reconstruction) and to agree with what the recommender expects (alignment); then the whole catalog is coded anew.

Source: ETEGRec (arXiv:2409.05546): alternating training, and its alignments in one term.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import genrec_fast as gf
from genrec_fast.base.batch import Loss
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import TeacherForced
from proofs import shop


class Quantizer(nn.Module):
    """Features -> codes, and how far every code was from being chosen."""

    def __init__(self, catalog: gf.Catalog, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(catalog.feature_dim, width), nn.Linear(width, catalog.feature_dim)
        self.register_buffer("epoch", torch.tensor(0))  # saved with the rest: a resumed training knows whose turn it is
        self.codebooks = nn.ParameterList()
        with torch.no_grad():
            rest = self.encoder(catalog.features)
            for codes, size in zip(catalog.item_codes.long().T, catalog.codebook_sizes, strict=True):
                mine = F.one_hot(codes, size).float()
                table = mine.T @ rest / mine.sum(0).clamp(min=1)[:, None]  # the mean of what a code stands for
                self.codebooks.append(nn.Parameter(table))
                rest = rest - table[codes]

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Codes int64 ``[N, L]``, per level logits ``[N, K]``, and the loss of the description."""
        latent = rest = self.encoder(features)
        codes, logits = [], []
        for table in self.codebooks:
            logits.append(-torch.cdist(rest, table).square())
            codes.append(logits[-1].argmax(1))
            rest = rest - table[codes[-1]]
        quantized = latent - rest
        described = self.decoder(latent + (quantized - latent).detach())  # straight through
        commitment = F.mse_loss(quantized, latent.detach()) + 0.25 * F.mse_loss(latent, quantized.detach())
        return torch.stack(codes, 1), logits, F.mse_loss(described, features) + commitment


@gf.register_config
@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """Settings of ``Joint``."""

    width: int = 8  # of the quantizer

    def build(self, catalog: gf.Catalog) -> Joint:
        return Joint(self, catalog)


class Joint(Objective):
    """The next code, or in every other epoch what the quantizer learns; after that, new codes."""

    needs = TeacherForced

    def __init__(self, config: JointConfig, catalog: gf.Catalog) -> None:
        self.config, self.next_code = config, gf.NextCodeConfig().build(catalog)

    def parts(self, catalog: gf.Catalog) -> dict[str, nn.Module]:
        return {"quantizer": Quantizer(catalog, self.config.width)}

    def __call__(self, system: Any, batch: gf.Batch) -> Loss:
        if system.quantizer.epoch % 2 == 0:
            return self.next_code(system, batch)
        wanted = batch.targets[batch.target_positions]
        _, logits, loss = system.quantizer(system.catalog.features[wanted])
        with torch.no_grad():
            expected = system.backbone.level_logits(batch)
        for ours, theirs in zip(logits, expected, strict=True):
            loss = loss + 0.1 * F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
        return Loss(loss, len(wanted), {"loss_quantizer": float(loss.detach())})

    def after_epoch(self, system: Any) -> gf.Catalog | None:
        system.quantizer.epoch += 1
        if system.quantizer.epoch % 2 == 1:
            return None
        return system.catalog.with_codes(system.quantizer(system.catalog.features)[0], system.codebook_sizes)


def recipe() -> gf.Recipe:
    first = shop.changed(shop.recipe(), epochs=5, evaluate_every=5)
    return dataclasses.replace(first, name="joint", source="arXiv:2409.05546", objective=JointConfig())

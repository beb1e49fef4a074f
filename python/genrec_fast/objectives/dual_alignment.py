"""H2Rec's three terms: the next item, vectors of both kinds of IDs that meet, and levels that may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import DualVectors
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._negatives import check_targets, targets_of
from genrec_fast.objectives.full_softmax import cross_entropy
from genrec_fast.objectives.masked_fusion import alignment


@dataclass(frozen=True, kw_only=True)
class DualAlignmentConfig:
    """Settings of ``DualAlignment``; the defaults are those of H2Rec's public code."""

    id_weight: float = 0.1  # of the contrast between items' own vectors and their codes'
    id_temperature: float = 0.5  # of its cosines
    level_weight: float = 0.1  # of the contrast between histories with all levels and with some hidden
    level_temperature: float = 1.0  # of its cosines

    def __post_init__(self) -> None:
        check_fields(self, above=("id_temperature", "level_temperature"))

    def build(self, catalog: Catalog | None = None) -> DualAlignment:
        return DualAlignment(self)


class DualAlignment(Objective):
    """Cross-entropy over all items, and two contrasts in the batch.

    ::

        ids     = mean_i -(log softmax_j cos(own_i, codes_j) / t [i] + the same of codes over own) / 2
        levels  = the same of the users' states with all levels and with the levels of the lowest gates hidden
        loss    = next + id_weight ids + level_weight levels

    i and j run over the different targets of the batch, users over all its targets.

    Source: H2Rec (arXiv:2512.10388) and its public code.
    """

    needs = DualVectors

    def __init__(self, config: DualAlignmentConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; figures: its terms."""
        positions, targets = targets_of("DualAlignment", batch)
        backbone, config = system.backbone, self.config
        table = backbone.item_table()
        check_targets("DualAlignment", targets, table.shape[0])
        following = cross_entropy(backbone.embed_targets(batch), table, targets)
        items = torch.unique(targets)
        ids = alignment(backbone.id_vectors(items), backbone.code_vectors(items), config.id_temperature)
        whole, masked = backbone.masked_users(batch)
        levels = alignment(whole, masked, config.level_temperature)
        total = following + config.id_weight * ids + config.level_weight * levels
        terms = {"loss_items": following, "loss_ids": ids, "loss_levels": levels}
        return Loss(total, positions.numel(), {name: float(term.detach()) for name, term in terms.items()})

"""In-batch contrastive learning: the other targets of the batch are the negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import Embedding
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._contrast import contrast
from genrec_fast.objectives._negatives import check_counts, check_targets, hits_of, targets_of


@dataclass(frozen=True, kw_only=True)
class InBatchConfig:
    """Settings of ``InBatch``."""

    temperature: float = 1.0  # scores are divided by it
    correct_log_q: bool = True  # take the logarithm of each item's popularity from its score
    mask: Literal["target", "history"] = "target"  # excluded negatives: the row's target, or its whole history

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, catalog: Catalog | None = None) -> InBatch:
        objective = InBatch(self)
        if catalog is not None and catalog.counts is not None:
            objective.take_counts(catalog.counts)
        return objective


class InBatch(Objective):
    """InfoNCE: mean over targets of a softmax of the target against all other targets of the batch.

    ::

        s(m, i) = state[m] . item_table[i] / temperature - correct_log_q * log p(i)
        loss    = -mean over m of log(exp(s(m, y_m)) / (exp(s(m, y_m)) + sum over n with y_n != y_m of exp(s(m, y_n))))

    p(i) is the item's share of the training events (of the catalog, or ``take_counts``), or its share of the
    batch's targets where no counts were taken. Other occurrences of a row's own target are masked. An item that is the
    target k times stands in the sum once, with its weight k.

    Source: van den Oord et al., arXiv:1807.03748, equation 4; log-Q correction: Yi et al., RecSys 2019, equation 4.
    """

    needs = Embedding

    def __init__(self, config: InBatchConfig) -> None:
        self.config = config
        self._log_share: Tensor | None = None

    def take_counts(self, counts: Tensor) -> None:
        """Integer ``[N]``: how often each item occurs in the training data; 0 is read as 1."""
        known = check_counts("InBatch", counts).clamp(min=1.0)
        self._log_share = (known / known.sum()).log()

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch."""
        _, targets = targets_of("InBatch", batch)
        states, table = system.backbone.embed_targets(batch), system.backbone.item_table()
        check_targets("InBatch", targets, table.shape[0])
        negatives, place, times = torch.unique(targets, return_inverse=True, return_counts=True)
        negative_shift = times.double().log()
        target_shift = None
        if self.config.correct_log_q:
            log_p = (times.double() / targets.numel()).log()
            if self._log_share is not None:
                if self._log_share.numel() != table.shape[0]:
                    raise InvalidValueError(
                        f"InBatch: counts must be of {table.shape[0]} items, got {self._log_share.numel()}"
                    )
                self._log_share = self._log_share.to(table.device)
                log_p = self._log_share[negatives]
            negative_shift = negative_shift - log_p
            target_shift = -log_p[place]
        value = contrast(
            states,
            table,
            targets,
            negatives,
            kind="softmax",
            scale=1.0 / self.config.temperature,
            target_shift=target_shift,
            negative_shift=negative_shift,
            hits=hits_of(batch, targets, table.shape[0], self.config.mask),
        )
        return Loss(value, targets.numel(), {"in_batch_negatives": float(negatives.numel() - 1)})

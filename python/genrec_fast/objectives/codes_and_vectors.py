"""Two tasks of one reading: the next item's codes, and its place among the items' vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import CodesAndVectors as Backbone
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._negatives import check_counts, check_targets, targets_of
from genrec_fast.objectives.next_code import cross_entropy


@dataclass(frozen=True, kw_only=True)
class CodesAndVectorsConfig:
    """Settings of ``CodesAndVectors``."""

    negatives: Literal["seen", "batch", "others"] = "seen"
    """"seen": every item that occurs in the training data (LIGER); "batch": the batch's other targets, each once, but
    for items of the row's own history (COBRA); "others": those, as often as they stand there, whatever the history
    (SpecGR)"""
    temperature: float = 0.07  # cosines are divided by it (LIGER, SpecGR: 0.07, COBRA: 0.2)
    vector_weight: float = 1.0  # of the second loss (SpecGR: 6)

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",))

    def build(self, catalog: Catalog | None = None) -> CodesAndVectors:
        return CodesAndVectors(self, None if catalog is None else catalog.counts)


class CodesAndVectors(Objective):
    """The mean cross-entropy of the codes plus that of the item among negatives, by cosine.

    ::

        loss = mean over m, l of -log p(code) + vector_weight * mean over m of
               -log(exp(c(m, y_m) / t) / sum over i of exp(c(m, i) / t)),    c(m, i) = vectors[m] . item_table[i]

    The sum runs over the target and the negatives. An item that is not among the training data is never a negative: it
    is there to be found later.

    Args:
        counts: integer ``[N]``: how often each item occurs in the training data; ``None``: all do.

    Notes:
        With "others" a backbone that has ``item_vectors(items [M]) -> [M, D]`` is asked for its targets' alone, where
        a table of all items costs too much to be made at every step.

    Source: LIGER (arXiv:2411.18814, section 3); COBRA (arXiv:2503.02453, section 3.3); SpecGR (arXiv:2410.02939).
    """

    needs = Backbone

    def __init__(self, config: CodesAndVectorsConfig, counts: Tensor | None) -> None:
        self.config = config
        self._seen = None if counts is None else check_counts("CodesAndVectors", counts) > 0

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch that went through a layout; figures: both losses.

        Raises:
            InvalidValueError: no targets, or items that the table has not.
        """
        if batch.target_codes is None or batch.target_codes.shape[0] == 0:
            raise InvalidValueError("CodesAndVectors: batch must have targets, got none")
        _, targets = targets_of("CodesAndVectors", batch)
        levels, vectors = system.backbone.predictions(batch)
        parts = [
            cross_entropy(logits.float(), batch.target_codes[:, level], None, 0.0)
            for level, logits in enumerate(levels)
        ]
        codes = torch.stack(parts).mean()
        of_items = getattr(system.backbone, "item_vectors", None) if self.config.negatives == "others" else None
        if of_items is not None:
            found = self._among_others(targets, vectors.float(), of_items(targets).float())
        else:
            table = system.backbone.item_table().float()
            check_targets("CodesAndVectors", targets, table.shape[0])
            if self.config.negatives == "batch":
                found = self._in_batch(batch, targets, vectors.float(), table)
            elif self.config.negatives == "others":
                found = self._among_others(targets, vectors.float(), table[targets])
            else:
                found = self._among_seen(targets, vectors.float(), table)
        figures = {"loss_codes": float(codes.detach()), "loss_vectors": float(found.detach())}
        return Loss(codes + self.config.vector_weight * found, targets.numel(), figures)

    def _among_seen(self, targets: Tensor, vectors: Tensor, table: Tensor) -> Tensor:
        logits = vectors @ table.t() / self.config.temperature
        if self._seen is not None:
            if self._seen.numel() != table.shape[0]:
                raise InvalidValueError(
                    f"CodesAndVectors: counts must be of {table.shape[0]} items, got {self._seen.numel()}"
                )
            self._seen = self._seen.to(table.device)
            unseen = (~self._seen).expand_as(logits).scatter(1, targets[:, None], False)
            logits = logits.masked_fill(unseen, -torch.inf)
        return F.cross_entropy(logits, targets)

    def _among_others(self, targets: Tensor, vectors: Tensor, items: Tensor) -> Tensor:
        """``items [M, D]``: the targets' vectors."""
        logits = vectors @ items.t() / self.config.temperature
        same = targets[:, None] == targets
        same.fill_diagonal_(False)
        places = torch.arange(len(targets), device=logits.device)
        return F.cross_entropy(logits.masked_fill(same, -torch.inf), places)

    def _in_batch(self, batch: Batch, targets: Tensor, vectors: Tensor, table: Tensor) -> Tensor:
        items, place = targets.unique(return_inverse=True)
        logits = vectors @ table[items].t() / self.config.temperature
        rows = torch.searchsorted(batch.items.offsets, batch.target_positions, right=True) - 1
        # Of a row's own items: those of its history, and its other targets.
        own = torch.zeros(len(batch), items.numel(), dtype=torch.bool, device=logits.device)
        own[rows, place] = True
        at = torch.searchsorted(items, batch.items.values).clamp(max=items.numel() - 1)
        known = items[at] == batch.items.values
        own[batch.items.row_index()[known], at[known]] = True
        same = own[rows].scatter(1, place[:, None], False)
        return F.cross_entropy(logits.masked_fill(same, -torch.inf), place)

"""Two tasks of one reading: the next item's codes, and the item itself among all, beside what is known already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import AddedScores
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives import full_softmax, next_code
from genrec_fast.objectives._negatives import check_targets, targets_of


@dataclass(frozen=True, kw_only=True)
class CodesAndItemsConfig:
    """Settings of ``CodesAndItems``."""

    code_weight: float = 1.0
    """of the codes' loss beside the item's"""
    valid_only: bool = True
    """softmax of a level over the codes that lead to an item; needs a layout with ``use_valid_codes``"""
    label_smoothing: float = 0.0
    """share of the target's probability spread over all items"""

    def __post_init__(self) -> None:
        check_fields(self, within={"label_smoothing": "[0, 1)"})

    def build(self, catalog: Catalog | None = None) -> CodesAndItems:
        return CodesAndItems(self)


class CodesAndItems(Objective):
    """The cross-entropy of the item over the whole catalog, plus the mean one of its codes.

    ::

        loss = mean over m of -log softmax(vectors[m] . item_table + added[m])[y_m]
               + code_weight * mean over m, l of -log p(code l of y_m)

    Of what is added its weights alone are learned: the gradient of the vectors is that of the residual.
    """

    needs = AddedScores

    def __init__(self, config: CodesAndItemsConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch that went through a layout; figures: both losses.

        Raises:
            InvalidValueError: no targets, items that the table has not, or no valid codes where they are read.
        """
        config = self.config
        _, targets = targets_of("CodesAndItems", batch)
        if batch.target_codes is None:
            raise InvalidValueError("CodesAndItems: batch must have target_codes (let it pass a layout), got None")
        if config.valid_only and batch.valid_codes is None:
            raise InvalidValueError(
                "CodesAndItems: batch must have valid_codes when valid_only is set, got None; "
                "set use_valid_codes in the layout"
            )
        levels, vectors, table, added = system.backbone.added_scores(batch)
        check_targets("CodesAndItems", targets, table.shape[0])
        items = full_softmax.cross_entropy(vectors, table, targets, config.label_smoothing, added)
        codes = torch.stack([self._of_level(logits, level, batch) for level, logits in enumerate(levels)]).mean()
        figures = {"loss_items": float(items.detach()), "loss_codes": float(codes.detach())}
        return Loss(items + config.code_weight * codes, targets.numel(), figures)

    def _of_level(self, logits: Tensor, level: int, batch: Batch) -> Tensor:
        valid = batch.valid_codes[level] if self.config.valid_only and batch.valid_codes is not None else None
        assert batch.target_codes is not None
        return next_code.cross_entropy(logits.float(), batch.target_codes[:, level], valid, 0.0)

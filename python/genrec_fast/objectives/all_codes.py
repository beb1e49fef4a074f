"""All codes of the next item at once: the mean cross-entropy of independent heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.checks import check_integers
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import Parallel
from genrec_fast.catalog.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class AllCodesConfig:
    """Settings of ``AllCodes``."""

    label_smoothing: float = 0.0  # share of the target's probability spread over the level's codes
    item_weight: float = 1.0  # of the item's own level beside the codes' 1, where the backbone predicts items, too

    def __post_init__(self) -> None:
        check_fields(self, within={"label_smoothing": "[0, 1)"})

    def build(self, catalog: Catalog | None = None) -> AllCodes:
        return AllCodes(self)


class AllCodes(Objective):
    """Mean over targets and levels of ``-log softmax(logits of the level)[code]``: multi-token prediction.

    Source: RPG (arXiv:2506.05781), equation 3.
    """

    needs = Parallel

    def __init__(self, config: AllCodesConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch that went through a layout; figures: of codes and items, where both are.

        Raises:
            InvalidTypeError: target codes are not int64.
            InvalidValueError: no targets, or codes that are not those of the backbone's levels.
        """
        if batch.target_codes is None or batch.target_codes.shape[0] == 0:
            raise InvalidValueError("AllCodes: batch must have targets, got none")
        logits, codes = system.backbone.target_logits(batch), batch.target_codes
        if check_integers("AllCodes", "target_codes", codes, "[M, L]").dtype != torch.int64:
            raise InvalidTypeError(f"AllCodes: target_codes must be int64 [M, L], got {codes.dtype}")
        with_items = len(logits) == codes.shape[1] + 1 and batch.targets is not None
        if with_items and batch.targets is not None:
            codes = torch.cat([codes, batch.targets[batch.target_positions].unsqueeze(1)], 1)
        if len(logits) != codes.shape[1]:
            raise InvalidValueError(f"AllCodes: target_codes must be of {len(logits)} levels, got {codes.shape[1]}")
        _check_codes(codes, [part.shape[1] for part in logits])
        smoothing = self.config.label_smoothing
        levels = [
            F.cross_entropy(part.float(), column, label_smoothing=smoothing)
            for part, column in zip(logits, codes.unbind(1), strict=True)
        ]
        if not with_items:
            return Loss(torch.stack(levels).mean(), codes.shape[0])
        own, weight = torch.stack(levels[:-1]), self.config.item_weight
        total = (own.sum() + weight * levels[-1]) / (len(own) + weight)
        figures = {"loss_codes": float(own.mean().detach()), "loss_items": float(levels[-1].detach())}
        return Loss(total, codes.shape[0], figures)


def _check_codes(codes: Tensor, sizes: list[int]) -> None:
    if codes.device.type != "cpu":  # a check would wait for the device
        return
    low, high = (part.tolist() for part in codes.aminmax(dim=0))
    for level, size in enumerate(sizes):
        if low[level] < 0 or high[level] >= size:
            raise InvalidValueError(
                f"AllCodes: target_codes of level {level} must be in [0, {size}), "
                f"got {low[level] if low[level] < 0 else high[level]}"
            )

"""Next-code prediction: the cross-entropy of the next item's codes, level by level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from genrec_fast.errors import InvalidValueError
from genrec_fast.types import Autoregressive, Batch, Loss

__all__ = ["NextCode", "NextCodeConfig"]


@dataclass(frozen=True, kw_only=True)
class NextCodeConfig:
    """Settings of ``NextCode``."""

    label_smoothing: float = 0.0  # share of the target's probability spread over the level's codes
    level_weights: tuple[float, ...] = ()  # one per level; empty: all 1

    def build(self) -> NextCode:
        """Makes the objective."""
        return NextCode(self)


class NextCode:
    """Mean over targets and levels of ``-log p(code | history, codes before)``.

    The softmax of a level runs over that level's codes, as the search's does.

    Source: TIGER (arXiv:2305.05065, section 3.2).
    """

    needs = Autoregressive

    def __init__(self, config: NextCodeConfig) -> None:
        if not 0.0 <= config.label_smoothing < 1.0:
            raise InvalidValueError(f"NextCode: label_smoothing must be in [0, 1), got {config.label_smoothing}")
        self.config = config

    def __call__(self, backbone: Autoregressive, batch: Batch) -> Loss:
        """Loss over the M targets of a batch that went through a layout; figures: each level's cross-entropy."""
        if batch.target_codes is None or batch.target_codes.shape[0] == 0:
            raise InvalidValueError("NextCode: batch must have targets, got none")
        codes = batch.target_codes
        weights = self.config.level_weights or (1.0,) * codes.shape[1]
        if len(weights) != codes.shape[1]:
            raise InvalidValueError(f"NextCode: level_weights must give {codes.shape[1]} levels, got {len(weights)}")
        losses = [
            F.cross_entropy(logits.float(), codes[:, level], label_smoothing=self.config.label_smoothing)
            for level, logits in enumerate(backbone.level_logits(batch))
        ]
        total = torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum() / sum(weights)
        figures = {f"loss_level_{level}": float(loss.detach()) for level, loss in enumerate(losses)}
        return Loss(total, codes.shape[0], figures)

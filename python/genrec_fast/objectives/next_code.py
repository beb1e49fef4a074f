"""Next-code prediction: the cross-entropy of the next item's codes, level by level."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.checks import check_integers, check_weights
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import TeacherForced
from genrec_fast.catalog.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class NextCodeConfig:
    """Settings of ``NextCode``."""

    label_smoothing: float = 0.0  # share of the target's probability spread over the level's codes
    level_weights: tuple[float, ...] = ()  # one per level; empty: all 1
    valid_only: bool = False  # softmax over the codes that lead to an item; search with normalize="valid" then
    temperature: float = field(default=1.0, metadata={"absent": 1.0})  # divides the logits, in the loss alone (LETTER)

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",), within={"label_smoothing": "[0, 1)"}, free=("level_weights",))
        check_weights("NextCodeConfig", "level_weights", self.level_weights)

    def build(self, catalog: Catalog | None = None) -> NextCode:
        return NextCode(self)


class NextCode(Objective):
    """Mean over targets and levels of ``-log p(code | history, codes before)``.

    The softmax of a level runs over all of that level's codes or, with ``valid_only``, over those that lead to an item
    of the catalog: the model then spends nothing on semantic IDs that no item has, and its scores are a distribution
    over the catalog. ``valid_only`` needs a layout with ``use_valid_codes`` and a decoder with ``normalize="valid"``.

    A temperature below 1 weighs the codes that are nearly as likely as the true one more.

    Source: TIGER (arXiv:2305.05065, section 3.2); the temperature: LETTER (arXiv:2405.07314, ranking-guided generation
    loss); ``valid_only`` is ours.
    """

    needs = TeacherForced

    def __init__(self, config: NextCodeConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch that went through a layout; figures: each level's cross-entropy."""
        if batch.target_codes is None or batch.target_codes.shape[0] == 0:
            raise InvalidValueError("NextCode: batch must have targets, got none")
        if self.config.valid_only and batch.valid_codes is None:
            raise InvalidValueError(
                "NextCode: batch must have valid_codes when valid_only is set, got None; "
                "set use_valid_codes in the layout"
            )
        codes = batch.target_codes
        weights = tuple(map(float, self.config.level_weights)) or (1.0,) * codes.shape[1]
        if len(weights) != codes.shape[1]:
            raise InvalidValueError(f"NextCode: level_weights must give {codes.shape[1]} levels, got {len(weights)}")
        losses = []
        if check_integers("NextCode", "target_codes", codes, "[M, L]").dtype != torch.int64:
            raise InvalidTypeError(f"NextCode: target_codes must be int64 [M, L], got {codes.dtype}")
        for level, logits in enumerate(system.backbone.level_logits(batch)):
            low, high = (int(code) for code in codes[:, level].aminmax()) if codes.device.type == "cpu" else (0, 0)
            if low < 0 or high >= logits.shape[1]:
                wrong = low if low < 0 else high
                raise InvalidValueError(
                    f"NextCode: target_codes of level {level} must be in [0, {logits.shape[1]}), got {wrong}"
                )
            valid = batch.valid_codes[level] if self.config.valid_only and batch.valid_codes is not None else None
            scaled = logits.float() / self.config.temperature
            losses.append(cross_entropy(scaled, codes[:, level], valid, self.config.label_smoothing))
        total = torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum() / sum(weights)
        figures = {f"loss_level_{level}": float(loss.detach()) for level, loss in enumerate(losses)}
        return Loss(total, codes.shape[0], figures)


def cross_entropy(logits: Tensor, codes: Tensor, valid: Tensor | None, label_smoothing: float) -> Tensor:
    """Mean ``-log softmax(logits)[code]``, the softmax and the smoothing over the valid codes only.

    Args:
        logits: float ``[M, K]``.
        codes: int64 ``[M]``, each valid.
        valid: bool ``[M, K]``, or ``None``: every code is.
        label_smoothing: share of the target's probability spread evenly over the valid codes, in ``[0, 1)``.
    """
    if valid is None:
        return F.cross_entropy(logits, codes, label_smoothing=label_smoothing)
    value = F.cross_entropy(logits.masked_fill(~valid, -torch.inf), codes)
    if label_smoothing:  # torch's own smoothing would take the mean over the masked codes, which is -inf
        logprobs = logits - logits.masked_fill(~valid, -torch.inf).logsumexp(1, keepdim=True)
        even = -(logprobs * valid).sum(1) / valid.sum(1)
        value = (1.0 - label_smoothing) * value + label_smoothing * even.mean()
    return value

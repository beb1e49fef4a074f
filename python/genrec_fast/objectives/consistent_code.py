"""Next-code prediction by two passes of dropout that shall agree (R-Drop, as NCI trains)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import TeacherForced
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives.next_code import cross_entropy


@dataclass(frozen=True, kw_only=True)
class ConsistentCodeConfig:
    """Settings of ``ConsistentCode``."""

    weight: float = 0.15  # of the disagreement (NCI: 0.15)

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> ConsistentCode:
        return ConsistentCode(self)


class ConsistentCode(Objective):
    """Mean over targets and levels of two passes' cross-entropy and of their disagreement.

    ::

        loss = mean (-log p(code) - log q(code)) / 2  +  weight * mean (KL(p | q) + KL(q | p)) / 2

    p and q are a level's softmax in two passes, each with a dropout of its own; without dropout the second term is 0.
    Twice the time of ``NextCode``.

    Source: R-Drop (arXiv:2106.14448), equations 2 to 4; for codes: NCI (arXiv:2206.02743), the default of its code.
    """

    needs = TeacherForced

    def __init__(self, config: ConsistentCodeConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; figures: both terms."""
        codes = batch.target_codes
        if codes is None or codes.shape[0] == 0:
            raise InvalidValueError("ConsistentCode: batch must have targets, got none")
        passes = [[logits.float() for logits in system.backbone.level_logits(batch)] for _ in range(2)]
        written = torch.stack(
            [cross_entropy(logits, codes[:, level], None, 0.0) for one in passes for level, logits in enumerate(one)]
        ).mean()
        apart = torch.stack([disagreement(*levels) for levels in zip(*passes, strict=True)]).mean()
        figures = {"loss_codes": float(written.detach()), "loss_disagreement": float(apart.detach())}
        return Loss(written + self.config.weight * apart, codes.shape[0], figures)


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """Mean over rows of ``(KL(p | q) + KL(q | p)) / 2``, p and q the softmax of logits ``[M, K]``."""
    first, second = one.log_softmax(1), other.log_softmax(1)
    return ((first.exp() - second.exp()) * (first - second)).sum(1).mean() / 2

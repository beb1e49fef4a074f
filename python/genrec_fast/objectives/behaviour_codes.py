"""MBGen's task: what is done next, and the codes of the item that it is done with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import BehaviourThenCodes
from genrec_fast.catalog.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class BehaviourCodesConfig:
    """Settings of ``BehaviourCodes``."""

    actions: tuple[str, ...]  # what the data's actions mean, in their order; the last that holds is the behaviour

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.actions:
            raise InvalidValueError("BehaviourCodesConfig: actions must name at least one, got none")

    def build(self, catalog: Catalog | None = None) -> BehaviourCodes:
        return BehaviourCodes(self)


class BehaviourCodes(Objective):
    """Mean over targets and tokens, a behaviour and L codes, of ``-log p(token | history, tokens before)``.

    Source: MBGen (arXiv:2405.16871).
    """

    needs = BehaviourThenCodes

    def __init__(self, config: BehaviourCodesConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; figures: the behaviour's and the codes' cross-entropy."""
        codes = batch.target_codes
        if codes is None or codes.shape[0] == 0:
            raise InvalidValueError("BehaviourCodes: batch must have targets, got none")
        first, levels = system.backbone.behaviour_and_level_logits(batch)
        done = F.cross_entropy(first.float(), system.backbone.target_behaviours(batch))
        written = torch.stack([F.cross_entropy(part.float(), codes[:, level]) for level, part in enumerate(levels)])
        total = (done + written.sum()) / (1 + len(levels))
        figures = {"loss_behaviour": float(done.detach()), "loss_codes": float(written.detach().mean())}
        return Loss(total, codes.shape[0], figures)

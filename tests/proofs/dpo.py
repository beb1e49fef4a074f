"""Direct preference optimisation: the item that a user took is to gain on the best item that the model would have
shown instead, measured against the model that training starts from.

Source: DPO (arXiv:2305.18290, equation 7); pairs of an observed item and a wrong one: S-DPO (arXiv:2406.09215).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import genrec_fast as gf
from genrec_fast.base.batch import Loss
from genrec_fast.base.columns import column
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import TeacherForced
from genrec_fast.base.query import Query
from proofs import shop


@dataclass(frozen=True)
class Pairs(gf.Batch):
    """A batch whose every target stands against another item.

    Args:
        rejected: int64 ``[M, L]``, the codes of that item.
        margins: float ``[M]``: how much more the reference likes the target, in log-probability.
    """

    rejected: Tensor | None = column("target")
    margins: Tensor | None = column("target")


def logprobs(backbone: Any, batch: gf.Batch, codes: Tensor) -> Tensor:
    """``[M]``: log-probability of semantic IDs int64 ``[M, L]`` behind the histories of a batch."""
    levels = backbone.level_logits(dataclasses.replace(batch, target_codes=codes))
    picked = [level.float().log_softmax(1).gather(1, codes[:, [i]]) for i, level in enumerate(levels)]
    return torch.cat(picked, 1).sum(1)


@gf.register_config
@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Settings of ``DPO``."""

    beta: float = 0.5
    """how dear a step away from the reference is"""

    def build(self, catalog: gf.Catalog) -> DPO:
        return DPO(self)


class DPO(Objective):
    """Mean over pairs of ``-log sigmoid(beta (margin - margin of the reference))``; ``M = B`` targets, one a user."""

    needs = TeacherForced
    reads_reference = True

    def __init__(self, config: DPOConfig) -> None:
        self.config = config

    def prepare(self, system: Any, batch: gf.Batch) -> Pairs:
        """Finds for each user the best item that is not the target, and asks the reference about both."""
        with system.answering():
            best = system.search(batch, Query(k=5)).codes.long()
        wrong = (best != batch.target_codes.unsqueeze(1)).any(2)
        rejected = best[torch.arange(len(best)), wrong.int().argmax(1)]
        margins = logprobs(system.reference, batch, batch.target_codes) - logprobs(system.reference, batch, rejected)
        return Pairs.of(batch, rejected=rejected, margins=margins)

    def __call__(self, system: Any, batch: Pairs) -> Loss:
        chosen, rejected = (logprobs(system.backbone, batch, c) for c in (batch.target_codes, batch.rejected))
        gained = chosen - rejected - batch.margins
        won = (gained > 0).float().mean()
        return Loss(-F.logsigmoid(self.config.beta * gained).mean(), len(gained), {"won": float(won)})


def recipe() -> gf.Recipe:
    """To be trained with ``start=``, a model of the shop's recipe."""
    first = shop.changed(shop.recipe(), learning_rate=1e-3)
    return dataclasses.replace(first, name="dpo", source="arXiv:2305.18290", objective=DPOConfig())

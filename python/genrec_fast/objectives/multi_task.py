"""Several yes-or-no questions about one event: what the user will do with an item (generative ranking)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.checks import check_weights
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import ActionScoring
from genrec_fast.catalog.catalog import Catalog


@dataclass(frozen=True, kw_only=True)
class MultiTaskConfig:
    """Settings of ``MultiTask``."""

    actions: tuple[str, ...] = ()  # the rules of data.load(actions=...) that the command line reads data with
    weights: tuple[float, ...] = ()  # one per action, of its cross-entropy; empty: all 1
    positive_weights: tuple[float, ...] = ()  # one per action, of its yes against its no; empty: all 1

    def __post_init__(self) -> None:
        check_fields(self, free=("weights", "positive_weights"))
        for name in ("weights", "positive_weights"):
            values = getattr(self, name)
            check_weights("MultiTaskConfig", name, values)
            if values and self.actions and len(values) != len(self.actions):
                raise InvalidValueError(
                    f"MultiTaskConfig: {name} must give {len(self.actions)} actions, got {len(values)}"
                )

    def build(self, catalog: Catalog | None = None) -> MultiTask:
        return MultiTask(self)


class MultiTask(Objective):
    """Mean over the asked events of the weighted mean of the actions' binary cross-entropies.

    ::

        bce[m, a] = -positive_weights[a] * label * log sigmoid(logit) - (1 - label) * log sigmoid(-logit)
        loss      = sum_a weights[a] * mean_m bce[m, a] / sum_a weights[a]

    Every action has a head of its own in the backbone; which events are asked, and what is true of them, stands in
    ``batch.tokens`` (``asked`` and ``labels``, from ``layouts.Interleave``). Figures: each action's cross-entropy,
    unweighted.

    Source: HSTU, arXiv:2402.17152, section 2.2 (ranking in its generative form); heads and weights as in MTGR
    (arXiv:2505.18654, section 3.4) and GenRank (arXiv:2505.04180, section 3).
    """

    needs = ActionScoring
    metric = "-normalized_entropy"

    def __init__(self, config: MultiTaskConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M asked events of a batch that went through a layout."""
        labels = None if batch.tokens is None else batch.tokens.labels
        if labels is None or labels.shape[0] == 0:
            raise InvalidValueError("MultiTask: batch must have labels of asked events, got none; see InterleaveConfig")
        logits = system.backbone.action_logits(batch).float()
        if logits.shape != labels.shape:
            raise InvalidValueError(
                f"MultiTask: labels must be {list(logits.shape)} as the backbone's logits, got {list(labels.shape)}"
            )
        count, actions = labels.shape
        given = {}
        for name in ("weights", "positive_weights"):
            values = tuple(map(float, getattr(self.config, name))) or (1.0,) * actions
            if len(values) != actions:
                raise InvalidValueError(f"MultiTask: {name} must give {actions} actions, got {len(values)}")
            given[name] = torch.tensor(values, device=logits.device)
        wanted = labels.to(logits.dtype)
        own = F.binary_cross_entropy_with_logits(
            logits, wanted, pos_weight=given["positive_weights"], reduction="none"
        ).mean(0)
        with torch.no_grad():
            plain = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(0)
        value = (own * given["weights"]).sum() / given["weights"].sum()
        figures = {f"loss_action_{action}": figure for action, figure in enumerate(plain.tolist())}
        return Loss(value, count, figures)

"""Softmax over a sample of the catalog, corrected for how likely each item was to be in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import Embedding
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._contrast import contrast
from genrec_fast.objectives._negatives import Draw, check_targets, hits_of, targets_of


@dataclass(frozen=True, kw_only=True)
class SampledSoftmaxConfig:
    """Settings of ``SampledSoftmax``."""

    num_negatives: int = 256  # items drawn with replacement
    share: Literal["batch", "row"] = "batch"  # one draw for the whole batch, or one per target
    sampling: Literal["uniform", "popularity"] = "uniform"  # how likely an item is to be drawn
    power: float = 1.0  # popularity: probability ~ (count + 1) ** power
    correction: Literal["negatives", "all", "none"] = "negatives"  # whose logits are corrected by log-Q
    temperature: float = 1.0  # scores are divided by it
    mask: Literal["target", "history"] = "target"  # excluded negatives: the row's target, or its whole history

    def __post_init__(self) -> None:
        check_fields(self, above=("temperature",), within={"power": "[0, 8]"})

    def build(self, catalog: Catalog | None = None) -> SampledSoftmax:
        objective = SampledSoftmax(self)
        if catalog is not None and catalog.counts is not None:
            objective.take_counts(catalog.counts)
        return objective


class SampledSoftmax(Objective):
    """Mean over targets of a softmax of the target against K sampled items.

    ::

        s(i)      = state . item_table[i] / temperature
        negatives:  s(j) - log(K q(j))                    correction "negatives" and "all"
        positive:   s(y), or s(y) - log(K q(y)) where the correction is "all"
        loss      = -log(exp(positive) / (exp(positive) + sum_j exp(negative_j)))

    with q(i) the probability that one draw gives item i. Negatives that are the target are masked. With correction
    "negatives" the sum under the fraction is an unbiased estimate of the full softmax's, ``E = sum_i exp(s(i))``, as
    the positive is in it with probability 1 and any other item K q(i) times; so the loss tends to ``FullSoftmax`` as K
    grows. "all" treats the positive as one of the draws, as the two-tower models do.

    Popularity is the catalog's counts (of the training split), or ``take_counts``.

    Source: Bengio and Senecal, "Adaptive importance sampling to accelerate training of a neural probabilistic language
    model", 2008, equation 12 ("negatives"); Yi et al., RecSys 2019, equation 4 ("all").
    """

    needs = Embedding

    def __init__(self, config: SampledSoftmaxConfig) -> None:
        self.config = config
        self._draw = Draw("SampledSoftmax", config.sampling, config.power)

    def take_counts(self, counts: Tensor) -> None:
        """Integer ``[N]``: how often each item occurs in the training data."""
        self._draw.take_counts(counts)

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; draws from torch's generator."""
        backbone = system.backbone
        return self.of_states(backbone.embed_targets(batch), backbone.item_table(), batch)

    def of_states(self, states: Tensor, table: Tensor, batch: Batch) -> Loss:
        """Loss of states ``[M, D]`` that predict the M targets of a batch, against a table ``[N, D]``."""
        _, targets = targets_of("SampledSoftmax", batch)
        config = self.config
        check_targets("SampledSoftmax", targets, table.shape[0])
        count, drawn = targets.numel(), config.num_negatives
        shape = (drawn,) if config.share == "batch" else (count, drawn)
        negatives, log_q = self._draw(shape, table.shape[0], table.device)
        shift = -(log_q + math.log(drawn))
        value = contrast(
            states,
            table,
            targets,
            negatives,
            kind="softmax",
            scale=1.0 / config.temperature,
            target_shift=shift[targets] if config.correction == "all" else None,
            negative_shift=None if config.correction == "none" else shift[negatives],
            hits=hits_of(batch, targets, table.shape[0], config.mask),
        )
        return Loss(value, count)

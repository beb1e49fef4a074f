"""Binary cross-entropy of the target against a few sampled items: SASRec's own objective."""

from __future__ import annotations

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
class SampledBCEConfig:
    """Settings of ``SampledBCE``."""

    num_negatives: int = 1  # per target, drawn with replacement; SASRec: 1
    share: Literal["batch", "row"] = "row"  # one draw per target (SASRec), or one for the whole batch
    sampling: Literal["uniform", "popularity"] = "uniform"  # how likely an item is to be drawn
    power: float = 1.0  # popularity: probability ~ (count + 1) ** power
    mask: Literal["target", "history"] = "history"  # excluded negatives; SASRec: the whole history
    calibration: float = 0.0  # t of gSASRec, in [0, 1]: 0 plain, 1 scores calibrated as with no sampling

    def __post_init__(self) -> None:
        check_fields(self, within={"power": "[0, 8]", "calibration": "[0, 1]"})

    def build(self, catalog: Catalog | None = None) -> SampledBCE:
        objective = SampledBCE(self)
        if catalog is not None and catalog.counts is not None:
            objective.take_counts(catalog.counts)
        return objective


class SampledBCE(Objective):
    """Mean over targets of ``-beta * log sigmoid(s(y)) - sum over negatives j of log(1 - sigmoid(s(j)))``.

    Negatives that are masked count nothing (SASRec draws again: with a catalog much larger than a history that is the
    same). beta is 1 or, calibrated, ``a (t (1 - 1/a) + 1/a)`` with a = K / (N - 1): the positive's probability is then
    overrated less the closer t is to 1.

    Source: SASRec (arXiv:1808.09781), equation 6; calibration: gSASRec (arXiv:2308.07192), equation 8.
    """

    needs = Embedding

    def __init__(self, config: SampledBCEConfig) -> None:
        self.config = config
        self._draw = Draw("SampledBCE", config.sampling, config.power)

    def take_counts(self, counts: Tensor) -> None:
        """Integer ``[N]``: how often each item occurs in the training data."""
        self._draw.take_counts(counts)

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; draws from torch's generator."""
        _, targets = targets_of("SampledBCE", batch)
        config = self.config
        states, table = system.backbone.embed_targets(batch), system.backbone.item_table()
        check_targets("SampledBCE", targets, table.shape[0])
        shape = (config.num_negatives,) if config.share == "batch" else (targets.numel(), config.num_negatives)
        negatives, _ = self._draw(shape, table.shape[0], table.device)
        share = min(1.0, config.num_negatives / max(1, table.shape[0] - 1))
        beta = share * (config.calibration * (1.0 - 1.0 / share) + 1.0 / share)
        value = contrast(
            states,
            table,
            targets,
            negatives,
            kind="bce",
            hits=hits_of(batch, targets, table.shape[0], config.mask),
            positive_weight=beta,
        )
        return Loss(value, targets.numel())

"""DiffGRM's objective: codes are masked in the order in which the network itself is least sure of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.columns import column
from genrec_fast.base.config import check_fields
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import MaskedCodes
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives.uniform_masking import target_codes_of


@dataclass(frozen=True, kw_only=True)
class CoherentMaskingConfig:
    """Settings of ``CoherentMasking``."""

    label_smoothing: float = 0.1  # share of the target's probability spread over the level's codes; DiffGRM: .1 to .2

    def __post_init__(self) -> None:
        check_fields(self, within={"label_smoothing": "[0, 1)"})

    def build(self, catalog: Catalog | None = None) -> CoherentMasking:
        return CoherentMasking(self)


@dataclass(frozen=True)
class Views(Batch):
    """A batch whose targets are seen partly masked: ``views`` is int64 ``[M, L, L]``, -1 where a code is masked."""

    views: Tensor | None = column("target")


class CoherentMasking(Objective):
    """Mean over the masked codes of L views of each target of their cross-entropy with label smoothing.

    ::

        confidence of a level = its largest probability when all codes are masked, without dropout and gradients
        view t = 1..L: the t levels of the least confidence are masked, the others are shown

    Of levels that are as sure the first is masked first.

    Source: DiffGRM (arXiv:2510.21805), on-policy coherent noising.
    """

    needs = MaskedCodes

    def __init__(self, config: CoherentMaskingConfig) -> None:
        self.config = config

    def prepare(self, system: Any, batch: Batch) -> Views:
        """The batch with its views.

        Raises:
            InvalidValueError: no targets.
        """
        codes, backbone = target_codes_of("CoherentMasking", batch), system.backbone
        levels = codes.shape[1]
        training = getattr(backbone, "training", False)
        with torch.no_grad():
            try:
                if training:
                    backbone.eval()
                nothing = torch.full_like(codes, -1).unsqueeze(1)
                found = backbone.code_logprobs(backbone.read_targets(batch), nothing)
            finally:
                if training:
                    backbone.train()
        sure = torch.stack([part[:, 0].amax(1) for part in found], 1)
        place = sure.argsort(dim=1, stable=True).argsort(1).unsqueeze(1)  # of each level in the order of confidence
        masked = place <= torch.arange(levels, device=codes.device).view(1, -1, 1)
        return Views.of(batch, views=codes.unsqueeze(1).expand(-1, levels, -1).masked_fill(masked, -1))

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a prepared batch."""
        codes, views = target_codes_of("CoherentMasking", batch), getattr(batch, "views", None)
        if views is None:
            batch = self.prepare(system, batch)
            views = batch.views
        assert isinstance(views, Tensor)
        found = system.backbone.code_logprobs(system.backbone.read_targets(batch), views)
        share, total = self.config.label_smoothing, codes.new_zeros((), dtype=torch.float32)
        for level, part in enumerate(found):
            own = part.gather(2, codes[:, level, None, None].expand(-1, part.shape[1], -1))[..., 0]
            losses = -(1 - share) * own - share * part.mean(2)
            total = total + losses.masked_fill(views[:, :, level] >= 0, 0.0).sum()
        return Loss(total / (views < 0).sum(), codes.shape[0])

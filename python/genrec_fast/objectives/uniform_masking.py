"""LLaDA's objective over semantic IDs: a uniformly drawn number of codes is masked, and told from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import MaskedCodes, MaskedRows
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.packed_block import appended, codes_before_targets


@dataclass(frozen=True, kw_only=True)
class UniformMaskingConfig:
    """Settings of ``UniformMasking``."""

    history_weight: float = 4.0  # of the term over whole rows beside the targets' 1; LLaDA-Rec: 3.5, 4 or 5; 0: none

    def __post_init__(self) -> None:
        check_fields(self, zero=("history_weight",))

    def build(self, catalog: Catalog | None = None) -> UniformMasking:
        return UniformMasking(self)


class UniformMasking(Objective):
    """Cross-entropy of masked codes, each over the share of its item's codes that was to be masked.

    ::

        target:  n ~ U{1..L} of its codes are masked:  sum of -log p(code | history, other codes) / (n / L) / (M L)
        row:     n ~ U{0..L} for each item of the history and for the target, each code is masked with p = n / L:
                 sum of -log p(code | all others) / p / (M T L), T the items of the longest row
        loss = target + history_weight * row

    The targets' term needs ``MaskedCodes``, that of rows ``MaskedRows``.

    Source: LLaDA-Rec (arXiv:2511.06254), section 3.3; the weights are LLaDA's (arXiv:2502.09992).
    """

    needs = MaskedCodes

    def __init__(self, config: UniformMaskingConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch that went through a layout; figures: of targets and of rows.

        Raises:
            InvalidValueError: no targets, or a weight of rows for a backbone that masks none of their codes.
        """
        codes, backbone = target_codes_of("UniformMasking", batch), system.backbone
        target = self._target(backbone, batch, codes)
        if not self.config.history_weight:
            return Loss(target, codes.shape[0])
        if not isinstance(backbone, MaskedRows):
            raise InvalidValueError(
                f"UniformMasking: history_weight must be 0 for {type(backbone).__name__}, which masks no code of a "
                f"history, got {self.config.history_weight}"
            )
        rows = self._rows(backbone, batch, codes)
        figures = {"loss_target": float(target.detach()), "loss_rows": float(rows.detach())}
        return Loss(target + self.config.history_weight * rows, codes.shape[0], figures)

    def _target(self, backbone: Any, batch: Batch, codes: Tensor) -> Tensor:
        (count, levels), device = codes.shape, codes.device
        number = torch.randint(1, levels + 1, (count, 1), device=device)
        masked = torch.rand(count, levels, device=device).argsort(1).argsort(1) < number
        found = backbone.code_logprobs(backbone.read_targets(batch), codes.masked_fill(masked, -1).unsqueeze(1))
        own = torch.stack([part[:, 0].gather(1, codes[:, level, None])[:, 0] for level, part in enumerate(found)], 1)
        return -(own * masked / (number / levels)).sum() / (count * levels)

    def _rows(self, backbone: MaskedRows, batch: Batch, codes: Tensor) -> Tensor:
        before = codes_before_targets("UniformMasking", batch)
        rows = Jagged(*appended(before.values, before.offsets, codes.unsqueeze(1)))
        levels = codes.shape[1]
        share = torch.randint(0, levels + 1, (len(rows.values), 1), device=codes.device) / levels
        masked = torch.rand(rows.values.shape, device=codes.device) < share
        found = backbone.row_logprobs(Jagged(rows.values.masked_fill(masked, -1), rows.offsets), masked)
        bases = torch.tensor([0, *backbone.codebook_sizes[:-1]], device=codes.device).cumsum(0)
        own = found.gather(1, (rows.values + bases)[masked].unsqueeze(1))[:, 0]
        weights = 1.0 / share.expand_as(masked)[masked]
        return -(own * weights).sum() / (len(codes) * int(rows.lengths.max()) * levels)


def target_codes_of(op: str, batch: Batch) -> Tensor:
    """int64 ``[M, L]``, M at least 1.

    Raises:
        InvalidValueError: there are none.
    """
    if batch.target_codes is None or batch.target_codes.shape[0] == 0:
        raise InvalidValueError(f"{op}: batch must have targets, got none")
    return batch.target_codes

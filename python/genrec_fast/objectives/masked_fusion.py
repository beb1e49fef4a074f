"""CCFRec's three terms: the next item, codes that are hidden, and a history with hidden codes that reads the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import FusedCodes
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._negatives import check_targets, targets_of


@dataclass(frozen=True, kw_only=True)
class MaskedFusionConfig:
    """Settings of ``MaskedFusion``; the weights are published per data set, these are Musical Instruments'."""

    mask_ratio: float = 0.5  # share of the histories' codes that are hidden
    code_weight: float = 0.6  # of the hidden codes' cross-entropy
    alignment_weight: float = 0.4  # of the contrast between a history and itself with hidden codes
    num_negatives: int = 0  # items drawn for each step beside the targets; 0: all items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_negatives",), within={"mask_ratio": "(0, 1)"})

    def build(self, catalog: Catalog | None = None) -> MaskedFusion:
        return MaskedFusion(self)


class MaskedFusion(Objective):
    """Two passes over the histories, one with hidden codes.

    ::

        u_m, u'_m = users at target m, read in full and with hidden codes (cosines over the temperature)
        next      = mean_m -log softmax_j(u_m . v_j)[target]            j: the target and the negatives, or all items
        codes     = mean over hidden codes of -log softmax over the codes of all levels
        align     = mean_m -(log softmax_n(u_m . u'_n)[m] + log softmax_n(u'_m . u_n)[m]) / 2    by the cosine / t
        loss      = next + code_weight codes + alignment_weight align

    Negatives are drawn evenly, none twice, among the items that are no target of the batch. Twice the time of a pass,
    and that of the negatives' vectors.

    Source: CCFRec (arXiv:2503.12183) and its public code.
    """

    needs = FusedCodes

    def __init__(self, config: MaskedFusionConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; figures: its terms."""
        positions, targets = targets_of("MaskedFusion", batch)
        backbone, config = system.backbone, self.config
        tokens = backbone.code_tokens(batch.items.values)
        hidden = torch.rand(tokens.shape, device=tokens.device) < config.mask_ratio
        users = backbone.embed_targets(batch)
        masked, code_logits = backbone.embed_hidden(batch, hidden)
        following = self._following(backbone, users, targets)
        written = code_logits.sum() * 0  # where nothing is hidden
        if code_logits.shape[0]:
            written = F.cross_entropy(code_logits.float(), tokens[hidden])
        aligned = alignment(users, masked, backbone.config.temperature)
        total = following + config.code_weight * written + config.alignment_weight * aligned
        terms = {"loss_items": following, "loss_codes": written, "loss_alignment": aligned}
        return Loss(total, positions.numel(), {name: float(term.detach()) for name, term in terms.items()})

    def _following(self, backbone: Any, users: Tensor, targets: Tensor) -> Tensor:
        count, num_items = self.config.num_negatives, backbone.items.num_items
        check_targets("MaskedFusion", targets, num_items)
        if not count:
            return F.cross_entropy((users @ backbone.item_table().T).float(), targets)
        own, place = torch.unique(targets, return_inverse=True)
        free = torch.ones(num_items, dtype=torch.bool, device=targets.device)
        free[own] = False
        others = free.nonzero().squeeze(1)
        others = others[torch.randperm(others.numel(), device=others.device)[:count]]
        vectors = backbone.item_vectors(torch.cat([own, others]))
        logits = (users @ vectors.T).float()
        at = torch.arange(own.numel(), device=own.device)
        elsewhere = torch.zeros_like(logits, dtype=torch.bool)
        elsewhere[:, : own.numel()] = at != place[:, None]  # another row's target is no negative
        return F.cross_entropy(logits.masked_fill(elsewhere, -torch.inf), place)


def alignment(users: Tensor, masked: Tensor, temperature: float) -> Tensor:
    """Mean over rows and both directions of ``-log softmax(cosine / temperature)[own]`` of two ``[M, D]``."""
    one, other = F.normalize(users.float(), dim=1), F.normalize(masked.float(), dim=1)
    logits, own = one @ other.T / temperature, torch.arange(len(one), device=one.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

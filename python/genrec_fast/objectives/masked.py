"""BERT4Rec's objective: items are hidden at random and predicted from the rest of their row."""

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
from genrec_fast.base.protocols import MaskedEmbedding
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives.full_softmax import cross_entropy


@dataclass(frozen=True, kw_only=True)
class MaskedItemsConfig:
    """Settings of ``MaskedItems``."""

    mask_ratio: float = 0.6  # share of the items that are hidden; BERT4Rec, section 4.6: 0.6 on beauty
    last_share: float = 0.1  # share of the rows in which the last item alone is hidden, as when recommending
    label_smoothing: float = 0.0  # share of the target's probability spread over all items

    def __post_init__(self) -> None:
        within = {"mask_ratio": "[0, 1]", "last_share": "[0, 1]", "label_smoothing": "[0, 1)"}
        check_fields(self, within=within)

    def build(self, catalog: Catalog | None = None) -> MaskedItems:
        return MaskedItems(self)


class MaskedItems(Objective):
    """Mean over hidden items of ``-log softmax(state . item_table)[item]``, over every item of the catalog.

    A row is a history and the item that followed it. Each of its items is hidden with ``mask_ratio``, at least one
    (the last where chance leaves none); in ``last_share`` of the rows the last alone. Which, torch's generator decides.

    Source: BERT4Rec (arXiv:1904.06690), section 3.6.
    """

    needs = MaskedEmbedding

    def __init__(self, config: MaskedItemsConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the hidden items of a batch."""
        if batch.targets is None or not bool((batch.targets >= 0).any()):
            raise InvalidValueError("MaskedItems: batch must have targets, got none")
        rows = whole_rows(batch.items, batch.targets)
        hidden = self._hidden(rows)
        at = hidden.nonzero().squeeze(1)
        states = system.backbone.embed_masked(Jagged(torch.where(hidden, -1, rows.values), rows.offsets), at)
        value = cross_entropy(states, system.backbone.item_table(), rows.values[at], self.config.label_smoothing)
        return Loss(value, at.numel())

    def _hidden(self, rows: Jagged) -> Tensor:
        device = rows.offsets.device
        index = rows.row_index()
        hidden = torch.rand(index.shape[0], device=device) < self.config.mask_ratio
        last_only = torch.rand(len(rows), device=device) < self.config.last_share
        hidden &= ~last_only[index]
        count = torch.zeros(len(rows), dtype=torch.int64, device=device).index_add_(0, index, hidden.long())
        ends = rows.offsets[1:] - 1
        hidden[ends[(count == 0) & (rows.lengths > 0)]] = True
        return hidden


def whole_rows(items: Jagged, targets: Tensor) -> Jagged:
    """Each history with the target of its last position, where it has one, behind it."""
    some = (items.lengths > 0).nonzero().squeeze(1)
    last = targets.new_full((len(items),), -1).index_copy(0, some, targets[items.offsets[1:][some] - 1])
    longer = items.offsets.clone()
    longer[1:] += torch.cumsum(last >= 0, 0)
    out = items.values.new_empty(int(longer[-1]))
    out[torch.arange(items.values.shape[0], device=out.device) + (longer - items.offsets)[items.row_index()]] = (
        items.values
    )
    out[longer[1:][last >= 0] - 1] = last[last >= 0]
    return Jagged(out, longer)

"""The item's loss and the codes' are the plain ones of one reading; what is missing is named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import CodesAndItemsConfig
from shared.objective_suite import ObjectiveSuite

ITEMS, TARGETS = 12, 5


class Backbone:
    def __init__(self):
        torch.manual_seed(0)
        self.levels = [torch.randn(TARGETS, 3), torch.randn(TARGETS, 4)]
        self.vectors, self.table = torch.randn(TARGETS, 6), torch.randn(ITEMS, 6)
        self.added = Jagged.from_rows([[1, 1], [], [2], [11, 0], [5]]), torch.randn(6)

    def added_scores(self, batch):
        return self.levels, self.vectors, self.table, self.added


class System:
    def __init__(self):
        self.backbone = Backbone()


def batch(**known):
    targets = torch.tensor([3, 1, 4, 11, 5])
    codes = torch.stack([targets // 4, targets % 4], 1)
    valid = tuple(torch.ones(TARGETS, size, dtype=torch.bool) for size in (3, 4))
    filled = Batch(Jagged.from_rows([[0, 3, 1], [4, 11]]), targets=targets, target_codes=codes, valid_codes=valid)
    return dataclasses.replace(filled, **known)


def test_the_loss_is_that_of_the_item_and_a_share_of_the_codes():
    system, asked = System(), batch()
    made = system.backbone
    logits = made.vectors @ made.table.T
    logits = logits.index_put((made.added[0].row_index(), made.added[0].values), made.added[1], accumulate=True)
    items = F.cross_entropy(logits, asked.targets)
    codes = torch.stack([F.cross_entropy(made.levels[n], asked.target_codes[:, n]) for n in range(2)]).mean()
    loss = CodesAndItemsConfig(code_weight=0.5).build()(system, asked)
    torch.testing.assert_close(loss.value, items + 0.5 * codes)
    assert loss.count == TARGETS
    assert loss.figures == pytest.approx({"loss_items": float(items), "loss_codes": float(codes)}, rel=1e-5)


def test_codes_that_lead_nowhere_are_no_rivals():
    asked = batch()
    valid = (asked.valid_codes[0], F.one_hot(asked.target_codes[:, 1], 4).bool())
    loss = CodesAndItemsConfig().build()(System(), dataclasses.replace(asked, valid_codes=valid))
    first = F.cross_entropy(System().backbone.levels[0], asked.target_codes[:, 0])
    assert loss.figures["loss_codes"] == pytest.approx(float(first) / 2, rel=1e-5)


def test_what_is_missing_is_named():
    objective = CodesAndItemsConfig().build()
    with pytest.raises(InvalidValueError, match="CodesAndItems: batch must have target_codes"):
        objective(System(), batch(target_codes=None))
    with pytest.raises(InvalidValueError, match="CodesAndItems: batch must have valid_codes when valid_only is set"):
        objective(System(), batch(valid_codes=None))
    with pytest.raises(InvalidValueError, match="CodesAndItems: batch must have targets, got none"):
        objective(System(), batch(targets=torch.full((TARGETS,), -1)))
    with pytest.raises(InvalidValueError, match=r"CodesAndItems: targets must be item ids in \[0, 12\), got 12"):
        objective(System(), batch(targets=torch.tensor([3, 1, 4, 12, 5])))


class TestCodesAndItems(ObjectiveSuite):
    recipe = "apex"
    objective = CodesAndItemsConfig()
    draws = True  # the timeline's dropout

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import ParallelHeadsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import AllCodesConfig
from shared.catalogs import coded, system_of
from shared.objective_suite import ObjectiveSuite


class Fixed:
    """A backbone with given logits."""

    def __init__(self, *logits):
        self.logits = [torch.tensor(level) for level in logits]

    def target_logits(self, batch):
        return self.logits


BATCH = Batch(Jagged.from_rows([[0]]), torch.tensor([2]), target_codes=torch.tensor([[1, 0]]))


def test_mean_over_levels():
    loss = AllCodesConfig().build()(system_of(Fixed([[0.0, 0.0]], [[3.0, 1.0]])), BATCH)
    wanted = (torch.tensor(2.0).log() + torch.tensor([3.0, 1.0]).logsumexp(0) - 3.0) / 2
    torch.testing.assert_close(loss.value, wanted)
    assert (loss.count, loss.figures) == (1, {})


def test_the_item_is_one_level_more():
    backbone = Fixed([[0.0, 0.0]], [[0.0, 0.0, 0.0]], [[0.0] * 5])
    loss = AllCodesConfig(item_weight=2.0).build()(system_of(backbone), BATCH)
    two, three, five = torch.tensor([2.0, 3.0, 5.0]).log().tolist()
    assert float(loss.value) == pytest.approx((two + three + 2 * five) / 4)
    assert loss.figures == {"loss_codes": pytest.approx((two + three) / 2), "loss_items": pytest.approx(five)}


def test_at_the_start_it_is_the_cross_entropy_of_cosines_by_hand():
    """RPG's known answer: 60 items, 4 x 8 codes, W = 0."""
    torch.manual_seed(0)
    codes = torch.randint(8, (60, 4))
    layout = PlainConfig().build(coded(codes, (8,) * 4))
    config = ParallelHeadsConfig(width=16, num_heads=2, num_layers=1, hidden=16, dropout=0.0)
    backbone = config.build(coded(codes, (8,) * 4)).eval()
    batch = layout(Batch(Jagged.from_rows([[3, 5, 8], [40]]), torch.tensor([5, 8, 9, 41])))
    loss = AllCodesConfig().build()(system_of(backbone), batch)
    states = backbone._states(batch)[[1, 2, 3, 5]]  # each row has a start in front
    table = backbone.code_embeddings.weight.view(4, 8, 16)
    cosines = torch.einsum("md,lkd->mlk", F.normalize(states, dim=1), F.normalize(table, dim=2)) / 0.03
    wanted = -cosines.log_softmax(2).gather(2, codes[[5, 8, 9, 41]].unsqueeze(2)).mean()
    torch.testing.assert_close(loss.value, wanted)


def test_bad_settings_and_batches():
    objective = AllCodesConfig().build()
    with pytest.raises(InvalidValueError, match=r"label_smoothing must be in \[0, 1\), got -1"):
        AllCodesConfig(label_smoothing=-1.0)
    with pytest.raises(InvalidValueError, match="AllCodes: target_codes must be of 1 levels, got 2"):
        objective(system_of(Fixed([[0.0, 0.0]])), BATCH)
    with pytest.raises(InvalidValueError, match=r"target_codes of level 0 must be in \[0, 1\), got 1"):
        objective(system_of(Fixed([[0.0]], [[0.0]])), BATCH)
    narrow = dataclasses.replace(BATCH, target_codes=BATCH.target_codes.int())
    with pytest.raises(InvalidTypeError, match=r"target_codes must be int64 \[M, L\], got torch.int32"):
        objective(system_of(Fixed([[0.0, 0.0]], [[0.0]])), narrow)


class TestAllCodes(ObjectiveSuite):
    recipe, objective = "rpg", AllCodesConfig(label_smoothing=0.1)


class TestCodesAndItems(ObjectiveSuite):
    recipe, objective = "car", AllCodesConfig()

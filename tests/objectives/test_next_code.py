from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.objectives.next_code import cross_entropy
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class Fixed:
    """A backbone with given logits."""

    def __init__(self, *logits):
        self.logits = [torch.tensor(level) for level in logits]

    def level_logits(self, batch):
        return self.logits


BATCH = Batch(Jagged.from_rows([[0]]), torch.tensor([1]), target_codes=torch.tensor([[1, 0]]))
BACKBONE = Fixed([[0.0, 0.0]], [[math.log(3.0), 0.0]])


def test_mean_over_levels():
    loss = NextCodeConfig().build()(system_of(BACKBONE), BATCH)
    assert float(loss.value) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert loss.count == 1
    assert loss.figures == {"loss_level_0": pytest.approx(math.log(2)), "loss_level_1": pytest.approx(math.log(4 / 3))}


def test_level_weights():
    loss = NextCodeConfig(level_weights=(3.0, 1.0)).build()(system_of(BACKBONE), BATCH)
    assert float(loss.value) == pytest.approx((3 * math.log(2) + math.log(4 / 3)) / 4)


def test_a_temperature_divides_the_logits():
    loss = NextCodeConfig(temperature=0.5).build()(system_of(BACKBONE), BATCH)  # LETTER: exp(2 log 3) = 9 against 1
    assert float(loss.value) == pytest.approx((math.log(2) + math.log(10 / 9)) / 2)
    with pytest.raises(InvalidValueError, match="temperature must be above 0"):
        NextCodeConfig(temperature=0.0)


def test_bad_settings_and_batches():
    with pytest.raises(InvalidValueError, match=r"label_smoothing must be in \[0, 1\), got -1"):
        NextCodeConfig(label_smoothing=-1).build()
    with pytest.raises(InvalidValueError, match="level_weights must give 2 levels, got 1"):
        NextCodeConfig(level_weights=(1.0,)).build()(system_of(BACKBONE), BATCH)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_level_weights_that_give_no_mean(weights):
    with pytest.raises(InvalidValueError, match=r"level_weights must be finite, at least 0 and not all 0, got \("):
        NextCodeConfig(level_weights=weights).build()


VALID = (torch.tensor([[True, True]]), torch.tensor([[True, False]]))


def test_valid_only_leaves_impossible_codes_out():
    batch = dataclasses.replace(BATCH, valid_codes=VALID)
    loss = NextCodeConfig(valid_only=True).build()(system_of(BACKBONE), batch)
    assert loss.figures == {"loss_level_0": pytest.approx(math.log(2)), "loss_level_1": 0.0}


def test_valid_only_smooths_over_valid_codes():
    torch.manual_seed(0)
    logits, codes, valid = torch.randn(4, 6, requires_grad=True), torch.tensor([0, 1, 2, 0]), torch.rand(4, 6) < 0.5
    valid[torch.arange(4), codes] = True
    ours = cross_entropy(logits, codes, valid, 0.2)
    ours.backward()
    rows = [
        F.cross_entropy(logits[row, valid[row]][None], valid[row, :code].sum()[None], label_smoothing=0.2)
        for row, code in enumerate(codes)
    ]
    torch.testing.assert_close(ours, torch.stack(rows).mean())
    assert bool(torch.isfinite(logits.grad).all())
    assert not bool(logits.grad[~valid].any())


def test_valid_only_needs_valid_codes():
    with pytest.raises(InvalidValueError, match="batch must have valid_codes when valid_only is set"):
        NextCodeConfig(valid_only=True).build()(system_of(BACKBONE), BATCH)


class TestNextCode(ObjectiveSuite):
    recipe, objective = "tiger", NextCodeConfig()


class TestNextValidCode(ObjectiveSuite):
    recipe, objective = "marius", NextCodeConfig(valid_only=True)

from __future__ import annotations

import math

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import ConsistentCodeConfig
from genrec_fast.objectives.consistent_code import disagreement
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class TestConsistentCode(ObjectiveSuite):
    recipe = "nci"
    objective = ConsistentCodeConfig()


class Twice:
    """A backbone whose passes differ."""

    def __init__(self, *passes):
        self.passes = iter(passes)

    def level_logits(self, batch):
        return [torch.tensor([next(self.passes)])]


BATCH = Batch(Jagged.from_rows([[0]]), torch.tensor([1]), target_codes=torch.tensor([[1]]))


def test_both_passes_and_their_disagreement_count():
    loss = ConsistentCodeConfig(weight=0.5).build()(system_of(Twice([0.0, 0.0], [0.0, math.log(3.0)])), BATCH)
    written = (math.log(2) + math.log(4 / 3)) / 2
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    second = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(loss.value) == pytest.approx(written + 0.5 * (first + second) / 2)
    assert loss.figures == {
        "loss_codes": pytest.approx(written),
        "loss_disagreement": pytest.approx((first + second) / 2),
    }


def test_passes_that_agree_are_next_code_prediction():
    loss = ConsistentCodeConfig().build()(system_of(Twice([1.0, 0.0], [1.0, 0.0])), BATCH)
    assert float(loss.value) == pytest.approx(math.log(1 + math.e))


def test_disagreement_is_the_mean_of_both_divergences():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = one.log_softmax(1), other.log_softmax(1)
    kl = torch.nn.functional.kl_div
    wanted = (kl(p, q, reduction="batchmean", log_target=True) + kl(q, p, reduction="batchmean", log_target=True)) / 2
    torch.testing.assert_close(disagreement(one, other), wanted)

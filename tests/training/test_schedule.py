from __future__ import annotations

import itertools
import math

import pytest

from genrec_fast.recipe.recipe import TrainConfig
from genrec_fast.training.schedule import learning_rate


def config(**settings):
    return TrainConfig(**({"learning_rate": 2.0, "warmup_steps": 10, "final_ratio": 0.1} | settings))


def test_warm_up_grows_to_the_peak():
    assert [learning_rate(config(), step, 100) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])


def test_warm_up_can_hold_the_peak():
    assert [learning_rate(config(hold_warmup=True), step, 100) for step in (0, 9)] == [2.0, 2.0]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_to_the_final_share_at_the_last_step_and_stays(schedule):
    rates = [learning_rate(config(schedule=schedule), step, 100) for step in range(10, 120)]
    assert rates[0] == 2.0
    assert rates[89:] == pytest.approx([0.2] * 21)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_half_way_is_half_way():
    for schedule in ("cosine", "linear"):
        assert learning_rate(config(schedule=schedule), 60, 111) == pytest.approx(1.1)


def test_inverse_square_root():
    """TIGER: 0.01 for 10,000 steps, then 0.01 * sqrt(10,000 / step)."""
    tiger = config(schedule="inverse_sqrt", learning_rate=0.01, warmup_steps=10_000, hold_warmup=True)
    assert learning_rate(tiger, 5_000, 200_000) == 0.01
    assert learning_rate(tiger, 39_999, 200_000) == pytest.approx(0.01 * math.sqrt(1 / 4))


def test_constant_and_no_warm_up():
    flat = config(schedule="constant", warmup_steps=0)
    assert {learning_rate(flat, step, 50) for step in range(60)} == {2.0}

"""One user's top 10, and users per second in batches: what a trained recommender takes from history to items.

The recipe is `marius` as published in the package, untrained (``models.untrained``), 50 beams.
Run: pytest bench/bench_recommend.py -o python_files='bench_*.py' -s
A trained model instead: GENREC_BENCH_MODEL=runs/marius pytest bench/bench_recommend.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

import genrec_fast as gf
from models import histories, untrained

NUM_BEAMS = 50


@pytest.fixture(scope="module")
def model() -> gf.Recommender:
    folder = os.environ.get("GENREC_BENCH_MODEL")
    return gf.load(folder) if folder else untrained(gf.recipes.marius())


def test_one_user(benchmark: Any, model: gf.Recommender) -> None:
    """The figure of issue 2: at most 10 ms on one thread."""
    one = histories(1, num_items=model.num_items)
    alone = model.recommend(one, 10, num_beams=NUM_BEAMS)
    together = model.recommend(one + histories(3, num_items=model.num_items)[1:], 10, num_beams=NUM_BEAMS)
    assert torch.allclose(alone.scores[0], together.scores[0], atol=1e-4)  # the same user, alone and among others
    benchmark.pedantic(model.recommend, (one, 10), {"num_beams": NUM_BEAMS}, rounds=50, warmup_rounds=5)
    print(f"\none user, top 10, {NUM_BEAMS} beams: min {1000 * benchmark.stats.stats.min:.2f} ms")


@pytest.mark.parametrize("users_per_batch", [32, 256])
def test_many_users(benchmark: Any, model: gf.Recommender, users_per_batch: int) -> None:
    many = histories(users_per_batch, num_items=model.num_items)
    options = {"num_beams": NUM_BEAMS, "users_per_batch": users_per_batch}
    benchmark.pedantic(model.recommend, (many, 10), options, rounds=3, warmup_rounds=1)
    benchmark.extra_info["users_per_second"] = users_per_batch / benchmark.stats.stats.min
    print(f"\n{users_per_batch} users at once: {benchmark.extra_info['users_per_second']:.0f} users/s")

"""One user's top 10, and users per second in batches: what a trained recommender takes from history to items.

Untrained weights: the time does not depend on them, but for how often `exact` holds. The catalog has the shape of
beauty (12,101 items, 3 levels of 256 codes and a dedup level, features of 384), the recipe is `marius` as published in
the package, 50 beams.
Run: pytest bench/bench_recommend.py -o python_files='bench_*.py' -s
A trained model instead: GENREC_BENCH_MODEL=runs/marius pytest bench/bench_recommend.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.model import Recommender, build_parts, load
from genrec_fast.tokenizers import add_dedup_level

NUM_ITEMS, FEATURE_DIM, NUM_BEAMS = 12_101, 384, 50


def untrained() -> Recommender:
    torch.manual_seed(0)
    recipe = recipes.marius()
    codes, sizes = add_dedup_level(torch.randint(0, 256, (NUM_ITEMS, 3), dtype=torch.int32), (256, 256, 256), "rank")
    layout, backbone, decoder, trie = build_parts(recipe, codes, sizes, torch.randn(NUM_ITEMS, FEATURE_DIM))
    names = [str(item) for item in range(NUM_ITEMS)]
    return Recommender(recipe, layout, backbone, decoder, trie, item_ids=names, titles=None, codebook_sizes=sizes)


@pytest.fixture(scope="module")
def model() -> Recommender:
    folder = os.environ.get("GENREC_BENCH_MODEL")
    return load(folder) if folder else untrained()


def histories(model: Recommender, users: int, items: int = 20) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    rows: list[list[int]] = torch.randint(0, model.num_items, (users, items), generator=generator).tolist()
    return rows


def test_one_user(benchmark: Any, model: Recommender) -> None:
    """The figure of issue 2: at most 10 ms on one thread."""
    one = histories(model, 1)
    alone = model.recommend(one, 10, num_beams=NUM_BEAMS)
    together = model.recommend(one + histories(model, 3)[1:], 10, num_beams=NUM_BEAMS)
    assert torch.allclose(alone.scores[0], together.scores[0], atol=1e-4)  # the same user, alone and among others
    benchmark.pedantic(model.recommend, (one, 10), {"num_beams": NUM_BEAMS}, rounds=50, warmup_rounds=5)
    print(f"\none user, top 10, {NUM_BEAMS} beams: min {1000 * benchmark.stats.stats.min:.2f} ms")


@pytest.mark.parametrize("users_per_batch", [32, 256])
def test_many_users(benchmark: Any, model: Recommender, users_per_batch: int) -> None:
    many = histories(model, users_per_batch)
    options = {"num_beams": NUM_BEAMS, "users_per_batch": users_per_batch}
    benchmark.pedantic(model.recommend, (many, 10), options, rounds=3, warmup_rounds=1)
    benchmark.extra_info["users_per_second"] = users_per_batch / benchmark.stats.stats.min
    print(f"\n{users_per_batch} users at once: {benchmark.extra_info['users_per_second']:.0f} users/s")

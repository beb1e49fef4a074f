"""One more event of each user: read alone on cached keys and values, against reading the whole history again.

Untrained HSTU in the research form (width 64, 4 layers, 2 heads of 32),
12,101 items, histories of 50, 200 and 1,000 events, one user or 32 at once; scores of the whole catalog and the top 10
included on both sides.
Run: pytest bench/bench_user_cache.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

import genrec_fast as gf
from models import NUM_ITEMS, untrained
from timing import in_turn

ROUNDS = 20


def recipe(max_items: int) -> gf.Recipe:
    found = gf.recipes.hstu()
    return dataclasses.replace(
        found,
        backbone=dataclasses.replace(found.backbone, max_items=max_items),
        batching=gf.BatchingConfig(max_items=max_items, items_per_batch=max_items),
    )


@pytest.mark.parametrize(("users", "events"), [(1, 50), (1, 200), (1, 1000), (32, 50), (32, 200)])
def test_one_event_more(benchmark: Any, users: int, events: int) -> None:
    model = untrained(recipe(events + 2 * ROUNDS))
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(0, NUM_ITEMS, (users, events + 2 * ROUNDS), generator=generator)
    times = torch.randint(1, 100_000, items.shape, generator=generator).cumsum(1)
    names = list(range(users))
    cache = gf.UserCache(model, num_pages=users * (events // 16 + ROUNDS))
    cache.extend(names, items[:, :events].tolist(), timestamps=times[:, :events].tolist())
    place = itertools.count(events)

    def go_on() -> gf.Ranked:
        now = next(place)
        new = slice(now, now + 1)
        return cache.recommend(names, 10, items=items[:, new].tolist(), timestamps=times[:, new].tolist())

    def read_anew(end: int) -> gf.Ranked:
        return model.recommend(items[:, :end].tolist(), 10, timestamps=times[:, :end].tolist())

    ours, rival = go_on(), read_anew(events + 1)
    assert torch.allclose(ours.scores, rival.scores, rtol=1e-4, atol=1e-4)
    benchmark.pedantic(go_on, rounds=ROUNDS, warmup_rounds=1)
    anew = in_turn(lambda: read_anew(events + 1), most=3)[0] / 1e3
    ratio = anew / (1e3 * benchmark.stats.stats.min)
    benchmark.extra_info.update(rival_ms=anew, ratio=ratio)
    print(
        f"\n{users} users, {events} events and one more: {1000 * benchmark.stats.stats.min:.2f} ms, "
        f"all read anew {anew:.2f} ms, ratio {ratio:.1f}"
    )

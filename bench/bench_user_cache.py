"""One more event of each user: read alone on cached keys and values, against reading the whole history again.

Untrained HSTU in the research form (width 64, 4 layers, 2 heads of 32),
12,101 items, histories of 50, 200 and 1,000 events, one user or 32 at once; scores of the whole catalog and the top 10
included on both sides.

And a language model: Qwen3 of 29.5M random parameters behind ``gf.hf.compile``, items of 4 tokens and an end token
behind the history, prompts of 200 and 1,000 tokens, one user, 50 beams, the top 10; both sides look at every weight.
Run: pytest bench/bench_user_cache.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

import genrec_fast as gf
from models import NUM_ITEMS, TOKEN_OFFSET, build, untrained
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


@pytest.mark.parametrize("tokens", [200, 1000])
@pytest.mark.parametrize("engine", ["float32", "bfloat16", "int8", "torch"])
def test_one_item_more_of_a_language_model(benchmark: Any, engine: str, tokens: int) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (NUM_ITEMS, 4), generator=generator)
    runs: Any = {"engine": "torch"} if engine == "torch" else {"engine": "native", "dtype": engine}
    name = "qwen3 30M"
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(256,) * 4)
    model = gf.hf.compile(build(name), catalog, TOKEN_OFFSET[name], reads="items", after=[1], **runs)
    count, rounds = (tokens - 1) // 4, 5 if engine == "torch" else ROUNDS
    items = torch.randint(0, NUM_ITEMS, (count + rounds + 3,), generator=generator).tolist()
    cache = gf.UserCache(model)
    cache.extend([0], [items[:count]])
    place = itertools.count(count)

    def go_on() -> gf.Ranked:
        return cache.recommend([0], 10, items=[[items[next(place)]]])

    def read_anew() -> gf.Ranked:
        return model.recommend([items[: count + 1]], 10)

    ours, rival = go_on(), read_anew()
    assert torch.equal(ours.items, rival.items)
    if engine == "torch":
        assert torch.allclose(ours.scores, rival.scores, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(ours.scores, rival.scores)

    def ask_again() -> gf.Ranked:
        return cache.recommend([0], 10)

    mine, search, anew = (took / 1e3 for took in in_turn(go_on, ask_again, read_anew, seconds=30, most=rounds))
    benchmark.pedantic(ask_again, rounds=1)
    benchmark.extra_info.update(ours_ms=mine, search_ms=search, rival_ms=anew, ratio=anew / mine)
    print(
        f"\n{name} {engine}, {tokens} tokens and one item more: {mine:.1f} ms, nothing more {search:.1f} ms, "
        f"all read anew {anew:.1f} ms, ratio {anew / mine:.1f}"
    )

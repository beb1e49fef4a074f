"""`apex` over 200,000 items: proposals against the scan, by time and by how much of the scan's top 10 they find.

The catalog is synthetic: 2,000 topics of 100 items, features around a topic's, semantic IDs with a topic's first two
codes; 20,000 histories that stay in a topic nine times of ten are counted. The network is not trained, so that its
part of a score is noise that no proposer can foresee: ``alone`` leaves it out, ``untrained`` has it as `apex` does.
Run: pytest bench/bench_proposals.py -o python_files='bench_*.py' -s --benchmark-timer=time.process_time
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import genrec_fast as gf

TOPICS, EACH, HISTORIES, LENGTH, K = 2000, 100, 20_000, 10, 10
WEIGHTS = {"alone": (0.0, 2.5, 3.75, 2.5), "untrained": (1.0, 2.5, 3.75, 2.5)}
DECODERS: dict[str, Any] = {"scan": gf.ScanConfig(), "proposals": gf.ProposalsConfig()}


def drawn(rows: int, seed: int) -> list[list[int]]:
    """Histories: a topic for each, and now and then any item."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(TOPICS, (rows, 1), generator=generator)
    inside = topic * EACH + torch.randint(EACH, (rows, LENGTH), generator=generator)
    anywhere = torch.randint(TOPICS * EACH, (rows, LENGTH), generator=generator)
    out: list[list[int]] = torch.where(torch.rand(rows, LENGTH, generator=generator) < 0.9, inside, anywhere).tolist()
    return out


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, str], gf.Recommender]:
    torch.manual_seed(0)
    topic = torch.arange(TOPICS * EACH) // EACH
    features = torch.randn(TOPICS, 64)[topic] + 0.7 * torch.randn(TOPICS * EACH, 64)
    codes = torch.stack([topic // 40, topic % 40, torch.arange(TOPICS * EACH) % EACH], 1).int()
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(256, 256, 256), features=features)
    recipe, found = gf.recipes.apex(), {}
    assert isinstance(recipe.backbone, gf.FusedConfig)
    histories = gf.Jagged.from_rows(drawn(HISTORIES, 1))
    for kind, weights in WEIGHTS.items():
        backbone = dataclasses.replace(recipe.backbone, weights=weights)
        for name, decoder in DECODERS.items():
            torch.manual_seed(1)
            model = gf.Recommender(dataclasses.replace(recipe, backbone=backbone, decoder=decoder), catalog).eval()
            model.get_submodule("backbone").count(histories)  # type: ignore[operator]
            found[kind, name] = model
    return found


@pytest.mark.parametrize("users", [1, 32])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", DECODERS)
def test_top_10(
    benchmark: Any, models: dict[tuple[str, str], gf.Recommender], users: int, kind: str, name: str
) -> None:
    asked = drawn(users, 2)
    benchmark.pedantic(models[kind, name].recommend, (asked, K), rounds=15, warmup_rounds=2)
    took = benchmark.stats.stats
    print(f"\n{kind}, {name}, {users} users: median {1000 * took.median:.1f} ms, least {1000 * took.min:.1f} ms")


@pytest.mark.parametrize("kind", WEIGHTS)
def test_overlap(models: dict[tuple[str, str], gf.Recommender], kind: str) -> None:
    """Of 256 other users: items of the scan's top 10 that proposals have, users with all of them, users proven."""
    asked = drawn(256, 3)
    every, some = (models[kind, name].recommend(asked, K, users_per_batch=32) for name in DECODERS)
    both = (every.items.unsqueeze(2) == some.items.unsqueeze(1)).any(2).float().mean(1)
    assert bool((every.items[some.exact] == some.items[some.exact]).all())
    torch.testing.assert_close(some.scores[some.exact], every.scores[some.exact])
    assert bool((some.scores <= every.scores + 1e-3).all())  # nothing is better than the best
    whole, proven = (both == 1).float().mean(), some.exact.float().mean()
    print(
        f"\n{kind}: {float(both.mean()):.1%} of the scan's top {K}, all of them for {float(whole):.1%} of the users, "
        f"proven for {float(proven):.1%}"
    )

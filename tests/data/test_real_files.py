"""The real files that developers keep beside the repository; skipped where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from genrec_fast import data, metrics

HOME = Path(os.environ.get("GENREC_FAST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def load(name):
    if not (HOME / name).is_dir():
        pytest.skip(f"{HOME / name} is not here")
    return data.load(HOME / name)


@pytest.mark.parametrize(
    ("name", "users", "items", "events"),
    [("beauty", 22_363, 12_101, 198_502), ("sports", 35_598, 18_357, 296_337), ("ml-100k", 943, 1_682, 100_000)],
)
def test_counts(name, users, items, events):
    dataset = load(name)
    assert (dataset.num_users, dataset.num_items, dataset.interactions.num_events) == (users, items, events)
    assert len(dataset.titles) == items


def test_beauty_has_features_and_published_ids():
    dataset = load("beauty")
    assert dataset.features.shape == (12_101, 384)
    assert dataset.item_codes.shape == (12_101, 4)
    assert round(metrics.collision_rate(dataset.item_codes) * 12_101) == 13


def test_ml_100k_is_in_order_of_time():
    interactions = load("ml-100k").interactions
    assert interactions.timestamps.min() == 874_724_710
    splits = data.time_split(interactions, 888_000_000, 890_000_000)
    assert interactions.num_events > splits.train.num_events > 0
    assert 0 < len(splits.test) <= 943


@pytest.mark.parametrize(("name", "recall", "ndcg"), [("beauty", 0.0115, 0.0055), ("sports", 0.0091, 0.0052)])
def test_popularity_reaches_what_was_measured_independently(name, recall, ndcg):
    splits = data.leave_one_out(load(name).interactions)
    test = splits.test
    counts = torch.bincount(splits.train.items.values)
    popular = counts.topk(10).indices.expand(len(test), 10)
    assert metrics.recall(popular, test.targets, 10) == pytest.approx(recall, abs=4e-4)
    assert metrics.ndcg(popular, test.targets, 10) == pytest.approx(ndcg, abs=4e-4)

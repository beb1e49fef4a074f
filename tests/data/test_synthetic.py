from __future__ import annotations

import pytest
import torch

from genrec_fast import data, metrics
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import Shop


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(300, seed=3)


def test_catalog_is_readable_and_its_features_tell_items_apart(shop):
    dataset = shop.dataset(20, seed=0)
    assert len(set(dataset.titles)) == 300
    assert len(set(dataset.attributes)) == 12
    assert dataset.features.shape == (300, 64)
    torch.testing.assert_close(dataset.features.norm(dim=1), torch.ones(300))
    assert torch.unique(dataset.features, dim=0).shape[0] == 300
    # the same product is nearer than a different one
    product = [" ".join(title.split()[2:]) for title in dataset.titles]
    same = torch.tensor([[a == b for b in product] for a in product]) & ~torch.eye(300, dtype=torch.bool)
    likeness = dataset.features @ dataset.features.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.3


def test_same_seeds_give_the_same_shop_and_others_do_not(shop):
    first, again, other = shop.dataset(50, seed=1), Shop(300, seed=3).dataset(50, seed=1), shop.dataset(50, seed=2)
    assert torch.equal(first.interactions.items.values, again.interactions.items.values)
    assert torch.equal(first.interactions.timestamps, again.interactions.timestamps)
    assert first.titles == again.titles
    assert not torch.equal(first.interactions.items.offsets, other.interactions.items.offsets)
    assert Shop(300, seed=4).titles != shop.titles


def test_lengths_and_days_are_as_asked(shop):
    interactions = shop.dataset(200, seed=0, min_events=2, max_events=4).interactions
    assert set(interactions.items.lengths.tolist()) == {2, 3, 4}
    assert interactions.timestamps.dtype == torch.float64


def test_probabilities_are_the_formula(shop):
    rows = shop.next_item_probabilities(Jagged.from_rows([[], [7], [5, 7], [9, 5, 7], [5, 9, 7]])).double()
    torch.testing.assert_close(rows.sum(1), torch.ones(5, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[0], shop.popularity, atol=1e-7, rtol=0)
    assert torch.equal(rows[2], rows[3])  # what lies further back does not matter
    assert not torch.equal(rows[2], rows[4])
    one = {i: shop.next_item_probabilities(Jagged.from_rows([[i]]))[0].double() for i in (5, 7)}
    expected = (one[7] - 0.15 * shop.popularity) / 0.85 * 0.65 + (one[5] - 0.15 * shop.popularity) / 0.85 * 0.2
    torch.testing.assert_close(rows[2], expected + 0.15 * shop.popularity, atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_frequencies_match_the_stated_probabilities(shop, length):
    # Many customers: among those whose visible past is known, compare purchases with the sum of their probabilities.
    events = shop.dataset(40_000, seed=length, min_events=length + 1, max_events=length + 1).interactions.items
    rows = events.padded()
    counts = torch.bincount(rows[:, -1], minlength=300).double()
    histories = Jagged.from_rows(list(rows[:, :-1]))
    truth = shop.next_item_probabilities(histories).double()
    expected, variance = truth.sum(0), (truth * (1 - truth)).sum(0)
    z = (counts - expected) / variance.sqrt()
    assert z.abs().max() < 5
    assert 0.85 < z.std() < 1.15  # no better and no worse than chance allows
    # and conditionally: after each customer's own past, the stated probability of what was bought is calibrated
    likelihood = truth.gather(1, rows[:, -1:]).squeeze(1)
    assert likelihood.mean().item() == pytest.approx(truth.square().sum(1).mean().item(), rel=0.03)


def test_first_purchase_follows_popularity(shop):
    first = shop.dataset(60_000, seed=9, min_events=1, max_events=1).interactions.items.values
    z = (torch.bincount(first, minlength=300) - 60_000 * shop.popularity) / (60_000 * shop.popularity).sqrt()
    assert z.abs().max() < 5


def test_oracle_reaches_its_expected_recall_and_leaves_popularity_far_behind():
    shop = Shop()
    splits = data.leave_one_out(shop.dataset(5_000, seed=0).interactions)
    test = splits.test
    expected = shop.expected_recall(test.histories, 10)
    reached = metrics.recall(shop.best(test.histories, 10), test.targets, 10)
    assert abs(reached - expected) < 4 * (expected * (1 - expected) / 5_000) ** 0.5
    popular = torch.bincount(splits.train.items.values).topk(10).indices.expand(5_000, 10)
    assert metrics.recall(popular, test.targets, 10) < 0.12
    assert expected > 0.5


def test_oracle_breaks_ties_towards_the_lower_id_and_cannot_be_beaten(shop):
    histories = shop.dataset(50, seed=0).interactions.items
    truth = shop.next_item_probabilities(histories)
    best = shop.best(histories, 300)
    ordered = truth.gather(1, best)
    assert bool((ordered[:, 1:] <= ordered[:, :-1]).all())
    tied = ordered[:, 1:] == ordered[:, :-1]
    assert bool((best[:, 1:] > best[:, :-1])[tied].all())
    assert shop.expected_recall(histories, 300) == pytest.approx(1.0, abs=1e-5)


def test_wrong_arguments_are_named(shop):
    with pytest.raises(InvalidValueError, match=r"Shop: num_items must be in \[72, 10368\], got 71"):
        Shop(71)
    with pytest.raises(InvalidValueError, match="Shop: feature_dim must be at least 1, got 0"):
        Shop(feature_dim=0)
    with pytest.raises(InvalidValueError, match=r"Shop.dataset: num_users must be at least 1, got 0"):
        shop.dataset(0)
    with pytest.raises(InvalidValueError, match=r"max_events must be at least min_events >= 1, got 5..4"):
        shop.dataset(3, max_events=4)
    with pytest.raises(InvalidValueError, match=r"must hold items in \[0, 300\), got 300"):
        shop.next_item_probabilities(Jagged.from_rows([[1], [300]]))
    with pytest.raises(InvalidTypeError, match=r"histories must be int64, got torch.int32"):
        shop.next_item_probabilities(Jagged.from_rows([[1]], dtype=torch.int32))
    with pytest.raises(InvalidValueError, match=r"Shop.best: k must be in \[1, 300\], got 301"):
        shop.best(Jagged.from_rows([[1]]), 301)

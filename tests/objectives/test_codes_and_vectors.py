from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import CodesAndVectorsConfig
from shared.catalogs import coded, system_of
from shared.objective_suite import ObjectiveSuite

CODES = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]])
TABLE = normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 2.0]]), dim=1)
VECTORS = normalize(torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, -1.0]]), dim=1)


class Fixed:
    """A backbone with given predictions."""

    def predictions(self, batch):
        count = len(batch.target_codes)
        return [torch.zeros(count, 2), torch.tensor([[math.log(3.0), 0.0]]).expand(count, 2)], VECTORS[:count]

    def item_table(self):
        return TABLE


def batch():
    """Two users: items 0, 1 -> 2 and, at each position, what follows; item 3 -> 1."""
    targets = torch.tensor([1, 2, 1])
    return Batch(Jagged.from_rows([[0, 1], [3]]), targets, target_codes=CODES[targets])


def loss(counts=None, **settings):
    catalog = coded(CODES, (2, 2), counts=counts)
    return CodesAndVectorsConfig(**settings).build(catalog)(system_of(Fixed()), batch())


def by_hand(negatives, temperature):
    """-log softmax of each target's cosine among its own negatives and itself."""
    cosines, total = VECTORS @ TABLE.t() / temperature, 0.0
    for m, target in enumerate([1, 2, 1]):
        shown = [target, *(item for item in negatives[m] if item != target)]
        total -= float(cosines[m, target] - cosines[m, shown].logsumexp(0))
    return total / 3


def test_all_items_are_negatives():
    found = loss(temperature=0.5)
    assert found.figures["loss_vectors"] == pytest.approx(by_hand([range(4)] * 3, 0.5), abs=1e-6)
    # Second codes 0, 1 and 0: two of probability 3/4, one of 1/4.
    second = (2 * math.log(4 / 3) + math.log(4)) / 3
    assert found.figures["loss_codes"] == pytest.approx((math.log(2) + second) / 2, abs=1e-6)
    assert float(found.value) == pytest.approx(sum(found.figures.values()), abs=1e-6)
    assert found.count == 3


def test_what_never_occurred_is_no_negative():
    found = loss(counts=torch.tensor([3, 1, 2, 0]), temperature=0.5)
    assert found.figures["loss_vectors"] == pytest.approx(by_hand([[0, 1, 2]] * 3, 0.5), abs=1e-6)


def test_a_target_that_never_occurred_is_still_its_own():
    found = loss(counts=torch.tensor([3, 0, 2, 1]), temperature=0.5)
    assert found.figures["loss_vectors"] == pytest.approx(by_hand([[0, 2, 3]] * 3, 0.5), abs=1e-6)


def test_in_a_batch_a_rows_own_items_are_no_negatives():
    # Targets of the batch: 1 and 2. The first row's are both its own; the second row's own are 3 and 1.
    found = loss(negatives="batch", temperature=0.2)
    assert found.figures["loss_vectors"] == pytest.approx(by_hand([[], [], [2]], 0.2), abs=1e-6)


def test_others_of_the_batch_count_as_often_as_they_stand_there():
    """Targets 1, 2 and 1: the second row has two negatives that are the same item, the first and third have one."""
    found = loss(negatives="others", temperature=0.2)
    cosines, total = VECTORS @ TABLE.t() / 0.2, 0.0
    for m, shown in enumerate([[1, 2], [2, 1, 1], [1, 2]]):
        total -= float(cosines[m, shown[0]] - cosines[m, shown].logsumexp(0))
    assert found.figures["loss_vectors"] == pytest.approx(total / 3, abs=1e-6)


def test_a_network_that_makes_vectors_one_by_one_is_asked_for_its_targets_alone():
    class OneByOne(Fixed):
        def item_table(self):
            raise AssertionError("all items were asked for")

        def item_vectors(self, items):
            return TABLE[items]

    settings = {"negatives": "others", "temperature": 0.2}
    objective = CodesAndVectorsConfig(**settings).build(coded(CODES, (2, 2)))
    assert float(objective(system_of(OneByOne()), batch()).value) == pytest.approx(float(loss(**settings).value))


def test_the_second_task_has_a_weight():
    one, half = loss(), loss(vector_weight=0.5)
    expected = one.figures["loss_codes"] + 0.5 * one.figures["loss_vectors"]
    assert float(half.value) == pytest.approx(expected, rel=1e-6)


def test_counts_of_another_catalog_are_refused():
    objective = CodesAndVectorsConfig().build(coded(torch.zeros(2, 1).int(), (1,), counts=torch.tensor([1, 2])))
    with pytest.raises(InvalidValueError, match="CodesAndVectors: counts must be of 4 items, got 2"):
        objective(system_of(Fixed()), batch())


class TestAmongSeen(ObjectiveSuite):
    recipe = "liger"
    objective = CodesAndVectorsConfig()
    draws = True  # the input's dropout


class TestInBatch(ObjectiveSuite):
    recipe = "cobra"
    objective = CodesAndVectorsConfig(negatives="batch", temperature=0.2)

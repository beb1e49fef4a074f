from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast import metrics
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

ITEMS = torch.tensor([[3, 1, 2], [0, 4, -1], [5, 6, 7], [-1, -1, -1]])
TARGETS = torch.tensor([1, 0, 9, 2])


def test_ranks_recall_and_ndcg_by_hand():
    assert metrics.ranks(ITEMS, TARGETS).tolist() == [1, 0, 3, 3]
    assert [metrics.recall(ITEMS, TARGETS, k) for k in (1, 2, 3)] == [0.25, 0.5, 0.5]
    assert metrics.ndcg(ITEMS, TARGETS, 1) == pytest.approx(0.25)
    assert metrics.ndcg(ITEMS, TARGETS, 3) == pytest.approx((1 / math.log2(3) + 1) / 4)


def test_an_item_that_stands_twice_counts_once_and_first():
    items, targets = torch.tensor([[4, 2, 2]]), torch.tensor([2])
    assert metrics.recall(items, targets, 3) == 1.0
    assert metrics.ndcg(items, targets, 3) == pytest.approx(1 / math.log2(3))


def test_empty_slots_never_match():
    with pytest.raises(InvalidValueError, match="targets must be item ids from 0, got -1"):
        metrics.recall(torch.tensor([[-1]]), torch.tensor([-1]), 1)


@given(
    st.lists(st.tuples(st.lists(st.integers(-1, 5), min_size=4, max_size=4), st.integers(0, 5)), min_size=1),
    st.integers(1, 4),
)
def test_equal_to_a_plain_loop(rows, k):
    items, targets = torch.tensor([r for r, _ in rows]), torch.tensor([t for _, t in rows], dtype=torch.int32)
    hits, gains = 0, 0.0
    for row, target in rows:
        if target in row[:k]:
            hits += 1
            gains += 1 / math.log2(row.index(target) + 2)
    assert metrics.recall(items, targets, k) == pytest.approx(hits / len(rows))
    assert metrics.ndcg(items, targets, k) == pytest.approx(gains / len(rows))


def test_invalid_rate():
    assert metrics.invalid_rate(ITEMS) == pytest.approx(4 / 12)
    assert metrics.invalid_rate(torch.zeros(2, 2, dtype=torch.int32)) == 0.0


def test_collision_rate_and_codebook_use():
    codes = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 1]], dtype=torch.int32)
    assert metrics.collision_rate(codes) == 0.25
    assert metrics.collision_rate(codes.to(torch.uint8)) == 0.25
    assert metrics.codebook_use(codes, (4, 8)) == [0.5, 0.25]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: metrics.recall(ITEMS.float(), TARGETS, 1),
            InvalidTypeError,
            r"recall: items must be an integer tensor \[B, k\], got torch.float32",
        ),
        (lambda: metrics.recall(ITEMS[0], TARGETS, 1), InvalidValueError, r"recall: items must be \[B, k\], got \[3\]"),
        (lambda: metrics.ranks(ITEMS[0], TARGETS), InvalidValueError, r"ranks: items must be \[B, k\], got \[3\]"),
        (
            lambda: metrics.ndcg(ITEMS, TARGETS[:2], 1),
            InvalidValueError,
            r"ndcg: targets must be \[4\] as items has that many rows, got \[2\]",
        ),
        (lambda: metrics.ndcg(ITEMS, TARGETS, 4), InvalidValueError, r"ndcg: k must be in \[1, 3\], got 4"),
        (lambda: metrics.recall(ITEMS, TARGETS, 0), InvalidValueError, r"recall: k must be in \[1, 3\], got 0"),
        (
            lambda: metrics.recall(ITEMS[:0], TARGETS[:0], 1),
            InvalidValueError,
            "recall: targets must have at least one row, got none",
        ),
        (
            lambda: metrics.invalid_rate(ITEMS[:0]),
            InvalidValueError,
            r"invalid_rate: items must not be empty, got \[0, 3\]",
        ),
        (
            lambda: metrics.collision_rate(ITEMS[0]),
            InvalidValueError,
            r"collision_rate: item_codes must be \[N, L\], got \[3\]",
        ),
        (
            lambda: metrics.recall(ITEMS, [1, 2], 1),
            InvalidTypeError,
            "recall: targets must be an integer tensor .* list",
        ),
        (lambda: metrics.ranks([[1]], ITEMS[:, 0]), InvalidTypeError, "ranks: items must be an integer tensor .* list"),
        (lambda: metrics.ndcg(ITEMS, ITEMS[:, 0].abs(), 2.0), InvalidTypeError, "ndcg: k must be an int, got 2.0"),
        (lambda: metrics.auc(0.5, True), InvalidTypeError, "auc: logits must be a tensor, got float"),
        (lambda: metrics.codebook_use(ITEMS, 5), InvalidTypeError, "codebook_sizes must be a tuple of int, got 5"),
        (lambda: metrics.codebook_use(ITEMS, (9, 2.5, 9)), InvalidTypeError, "codebook_sizes must be an int, got 2.5"),
        (lambda: metrics.collision_rate(ITEMS[:0]), InvalidValueError, "collision_rate: item_codes must not be empty"),
        (
            lambda: metrics.codebook_use(ITEMS, (9, 9)),
            InvalidValueError,
            "codebook_use: codebook_sizes must give 3 levels, got 2",
        ),
        (
            lambda: metrics.codebook_use(ITEMS, (9, 9, 9)),
            InvalidValueError,
            r"codebook_use: codes of level 0 must be in \[0, 9\), got -1",
        ),
        (
            lambda: metrics.codebook_use(ITEMS[:1], (3, 9, 9)),
            InvalidValueError,
            r"codes of level 0 must be in \[0, 3\), got 3",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@given(st.integers(2, 30), st.integers(0, 1000))
def test_auc_is_the_share_of_pairs_in_order(count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-4, 5, (count,), generator=generator).float()
    labels = torch.rand(count, generator=generator) < 0.5
    labels[0], labels[1] = True, False
    pairs = (scores[labels][:, None] - scores[~labels]).sign()
    assert metrics.auc(scores, labels) == pytest.approx(float((pairs + 1).mean() / 2))


def test_normalized_entropy_of_a_constant_guess_is_one():
    labels = torch.arange(10) < 3
    constant = torch.full((10,), 0.3).logit()
    assert metrics.normalized_entropy(constant, labels) == pytest.approx(1.0, abs=1e-6)
    assert metrics.normalized_entropy(torch.where(labels, 2.0, -2.0), labels) < 0.3
    assert metrics.normalized_entropy(torch.where(labels, -2.0, 2.0), labels) > 1.0


@pytest.mark.parametrize("function", [metrics.auc, metrics.normalized_entropy])
def test_messages_of_yes_and_no(function):
    name, labels = function.__name__, torch.tensor([True, False])
    with pytest.raises(InvalidTypeError, match=rf"{name}: logits must be float \[M\] and labels bool \[M\]"):
        function(torch.tensor([1, 2]), labels)
    with pytest.raises(InvalidValueError, match=rf"{name}: logits and labels must be \[M\] and \[M\], got \[3\]"):
        function(torch.ones(3), labels)
    with pytest.raises(InvalidValueError, match=f"{name}: logits must not be NaN, got NaN in row 1"):
        function(torch.tensor([0.0, torch.nan]), labels)
    with pytest.raises(InvalidValueError, match=f"{name}: labels must hold both yes and no, got 2 yes and 0 no"):
        function(torch.ones(2), torch.tensor([True, True]))
    with pytest.raises(InvalidValueError, match="got 0 yes and 0 no"):
        function(torch.ones(0), torch.zeros(0, dtype=torch.bool))


def test_reciprocal_rank_coverage_and_novelty():
    items, targets = torch.tensor([[3, 1, 2], [0, 4, -1], [2, 1, 0]]), torch.tensor([1, 5, 0])
    assert metrics.mrr(items, targets, 3) == pytest.approx((1 / 2 + 0 + 1 / 3) / 3)
    assert metrics.mrr(items, targets, 2) == pytest.approx(1 / 6)
    assert metrics.coverage(items, 10) == 0.5
    counts = torch.tensor([8, 4, 2, 2, 0, 0])
    wanted = [3, 2, 3, 1, 4, 3, 2, 1]  # item 4 is taken for one that was seen once
    assert metrics.novelty(items, counts) == pytest.approx(sum(wanted) / 8)
    assert math.isnan(metrics.novelty(torch.full((1, 2), -1), counts))
    for wrong, message in (
        (lambda: metrics.coverage(items, 4), "coverage: items must be ids below 4, got 4"),
        (lambda: metrics.novelty(items, counts[:3]), "novelty: items must be ids below 3, got 4"),
        (lambda: metrics.novelty(items, counts * 0), "novelty: counts must be numbers from 0 with an event in all"),
    ):
        with pytest.raises(InvalidValueError, match=f"^{message}"):
            wrong()

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.tokenizers import collaborative_vectors
from genrec_fast.tokenizers.co_occurrence import co_occurrence


def blocks(groups=4, size=10, users=200, length=6, seed=0):
    """Histories that never leave a group of items."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (users, 1), generator=generator)
    items = group * size + torch.randint(size, (users, length), generator=generator)
    return Jagged.from_rows(list(items))


def dense(histories, count, window, shift=1.0):
    pairs = torch.zeros(count, count, dtype=torch.float64)
    for row in histories.rows():
        for i, first in enumerate(row.tolist()):
            for j, second in enumerate(row.tolist()):
                if i != j and abs(i - j) <= window and first != second:
                    pairs[first, second] += 1
    pmi = (pairs * pairs.sum() / pairs.sum(0, keepdim=True) / pairs.sum(1, keepdim=True)).log() - torch.tensor(
        shift
    ).log()
    return pairs, pmi.nan_to_num(nan=0.0, neginf=0.0).clamp_min(0)


def test_pairs_are_counted_as_a_plain_loop_counts_them():
    histories = Jagged.from_rows([[0, 1, 2, 1], [], [3], [2, 2, 4], [0, 3, 1, 4, 2, 0]])
    for window in (1, 2, 10):
        rows, columns, counts = co_occurrence(histories, 6, window=window)
        wanted, _ = dense(histories, 6, window)
        found = torch.zeros(6, 6, dtype=torch.float64)
        found[rows, columns] = counts
        assert torch.equal(found, wanted)
        assert torch.equal(rows * 6 + columns, (rows * 6 + columns).sort().values)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_vectors_are_those_of_the_dense_factorization(shift):
    histories = blocks()
    vectors = collaborative_vectors(histories, 42, width=3, window=3, shift=shift).double()
    _, pmi = dense(histories, 42, 3, shift)
    left, singular, _ = torch.linalg.svd(pmi)
    wanted = left[:, :3] * singular[:3].sqrt()
    torch.testing.assert_close(vectors @ vectors.T, wanted @ wanted.T, atol=2e-2, rtol=0)
    torch.testing.assert_close(vectors.square().sum(0), singular[:3], atol=1e-2, rtol=0)
    assert bool((vectors[40:] == 0).all())  # items that nobody touched


def test_items_of_one_group_point_one_way_and_groups_apart():
    vectors = torch.nn.functional.normalize(collaborative_vectors(blocks(), 40, width=4), dim=1)
    cosine = vectors @ vectors.T
    same = torch.arange(40)[:, None] // 10 == torch.arange(40) // 10
    assert float(cosine[same].min()) > 0.8
    assert float(cosine[~same].abs().max()) < 0.2


def test_the_same_bits_each_time_and_the_signs_are_fixed():
    first = collaborative_vectors(blocks(), 40, width=4)
    torch.randn(3)
    assert torch.equal(first, collaborative_vectors(blocks(), 40, width=4))
    largest = first.gather(0, first.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())
    assert first.dtype == torch.float32


def test_columns_beyond_the_rank_are_zero_and_empty_histories_give_zeros():
    vectors = collaborative_vectors(Jagged.from_rows([[0, 1], [0, 1]]), 3, width=5)
    assert vectors.shape == (3, 5)
    assert bool((vectors[2] == 0).all())
    for rows in ([], [[]], [[1], [2]], [[1, 1]]):
        assert bool((collaborative_vectors(Jagged.from_rows(rows), 3, width=2) == 0).all())


def test_messages_name_argument_rule_and_value():
    histories = Jagged.from_rows([[0, 1]])
    with pytest.raises(InvalidTypeError, match="co_occurrence: histories must be a Jagged of item ids, got list"):
        collaborative_vectors([[0, 1]], 2)
    with pytest.raises(InvalidTypeError, match=r"co_occurrence: histories must hold integers \[E\], got torch.float32"):
        collaborative_vectors(Jagged(torch.zeros(2), torch.tensor([0, 2])), 2)
    with pytest.raises(InvalidValueError, match=r"co_occurrence: histories must hold item ids in \[0, 1\), got 1"):
        collaborative_vectors(histories, 1)
    with pytest.raises(InvalidValueError, match="collaborative_vectors: width must be at least 1, got 0"):
        collaborative_vectors(histories, 2, width=0)
    with pytest.raises(InvalidValueError, match="collaborative_vectors: window must be at least 1, got 0"):
        collaborative_vectors(histories, 2, window=0)
    with pytest.raises(InvalidValueError, match="collaborative_vectors: shift must be at least 1, got nan"):
        collaborative_vectors(histories, 2, shift=float("nan"))

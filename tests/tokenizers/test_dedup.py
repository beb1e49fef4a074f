from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import resolve
from genrec_fast.tokenizers.collisions.dedup import add_dedup_level

CODES = torch.tensor([[7, 1], [3, 0], [7, 1], [2, 2], [7, 1], [3, 0]])


@pytest.mark.parametrize(
    ("dedup", "digits", "size"),
    [
        ("rank", [0, 0, 1, 0, 2, 1], 3),
        ("rank_if_shared", [1, 1, 2, 0, 3, 2], 4),
        ("colliding_only", [0, 0, 1, 3, 2, 1], 4),
    ],
)
def test_the_three_conventions(dedup, digits, size):
    codes, sizes = add_dedup_level(CODES, (8, 3), dedup)
    assert codes[:, :2].tolist() == CODES.tolist()
    assert codes[:, 2].tolist() == digits
    assert sizes == (8, 3, size)


def test_none_keeps_shared_ids():
    codes, sizes = add_dedup_level(CODES, (8, 3), "none")
    assert codes.tolist() == CODES.tolist()
    assert sizes == (8, 3)


@pytest.mark.parametrize(("dedup", "sizes"), [("rank", (4, 1)), ("rank_if_shared", (4, 1)), ("colliding_only", (4,))])
def test_without_collisions(dedup, sizes):
    codes, found = add_dedup_level(torch.tensor([[3], [0], [1]]), (4,), dedup)
    assert found == sizes
    assert codes[:, 1:].sum() == 0


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40),
    st.sampled_from(["rank", "rank_if_shared", "colliding_only"]),
)
def test_ids_become_unique_and_stay_inside(rows, dedup):
    codes, sizes = add_dedup_level(torch.tensor(rows), (3, 3), dedup)
    assert len({tuple(row) for row in codes.tolist()}) == len(rows)
    assert bool((codes < torch.tensor(sizes)).all())
    if dedup == "rank":  # by a plain loop
        seen: dict[tuple[int, int], int] = {}
        for row, digit in zip(rows, codes[:, 2].tolist(), strict=True):
            assert digit == seen.get(row, 0)
            seen[row] = digit + 1


def test_messages_name_argument_rule_and_value():
    with pytest.raises(InvalidValueError, match="dedup must be one of rank, rank_if_shared, colliding_only, none, got"):
        add_dedup_level(CODES, (8, 3), "other")
    with pytest.raises(InvalidTypeError, match=r"add_dedup_level: item_codes must be integers \[N, L\], got torch.flo"):
        add_dedup_level(CODES.float(), (8, 3), "rank")
    with pytest.raises(InvalidValueError, match=r"add_dedup_level: item_codes must be \[N, 1\], got \[6, 2\]"):
        add_dedup_level(CODES, (8,), "rank")
    with pytest.raises(InvalidValueError, match=r"add_dedup_level: codes of level 1 must be in \[0, 1\), got 2"):
        add_dedup_level(CODES, (8, 1), "rank")


@pytest.mark.parametrize(
    ("dedup", "touched", "after", "level"),
    [("rank", 5, 0, 3), ("rank_if_shared", 5, 0, 4), ("colliding_only", 5, 0, 4), ("none", 0, 0.5, 0)],
)
def test_each_convention_tells_what_it_did(dedup, touched, after, level):
    codes, sizes, told = resolve(CODES, (8, 3), dedup)
    assert torch.equal(codes, add_dedup_level(CODES, (8, 3), dedup)[0])
    assert sizes[2:] == ((level,) if level else ())
    assert (told.method, told.num_items, told.groups, told.largest_group) == (dedup, 6, 2, 3)
    assert (told.collision_rate_before, told.collision_rate_after) == (0.5, after)
    assert (told.items_touched, told.level_added, told.distortion_added) == (touched, level, None)


def test_reassignment_is_one_of_the_ways():
    book = torch.arange(4.0).unsqueeze(1)
    codes, sizes, told = resolve(torch.zeros(3, 1).int(), (4,), "nearest_free", vectors=book[:3] * 0, codebooks=[book])
    assert codes.tolist() == [[0], [1], [2]]
    assert sizes == (4,)
    assert told.distortion_added == pytest.approx(5 / 3)
    with pytest.raises(InvalidValueError, match="resolve: vectors and codebooks must be given for sinkhorn, got None"):
        resolve(CODES, (8, 3), "sinkhorn")
    with pytest.raises(InvalidValueError, match=r"resolve: codebook_sizes must be those of the codebooks, got \(8,\)"):
        resolve(CODES[:, :1], (8,), "sinkhorn", vectors=book, codebooks=[book])
    with pytest.raises(
        InvalidValueError, match=r"dedup must be one of rank, .*, none, nearest_free, sinkhorn, got 'x'"
    ):
        resolve(CODES, (8, 3), "x")

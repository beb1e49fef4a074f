"""Rows to items: every device gives the twin's items, codes and scores."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops import _cuda_expand_rows, trie_filter
from genrec_fast.ops._registry import twins
from genrec_fast.ops.expand_rows import expand_rows
from shared.cards import assert_no_race, every_card


def catalog(items, size, generator):
    """A trie of two levels, most rows of which have several items where ``size`` is small."""
    return build_trie(torch.randint(size, (items, 2), generator=generator), codebook_sizes=(size, size))


def kept_rows(trie, users, beams, generator, *, ties):
    """Rows, no one twice for a user, some beams dead; their codes, scores and ranks."""
    rows = torch.full((users, beams), -1, dtype=torch.int32)
    most = min(beams, trie.num_rows)
    for own in rows:
        own[torch.randperm(beams, generator=generator)[:most]] = torch.randperm(trie.num_rows, generator=generator)[
            :most
        ].int()
    rows[torch.rand(rows.shape, generator=generator) < 0.1] = -1
    scores = -torch.randint(0, 4, rows.shape, generator=generator).float() if ties else torch.randn(rows.shape)
    codes = torch.randint(0, 100, (users, beams, 2), generator=generator, dtype=torch.int32)
    return rows, codes, scores.masked_fill(rows < 0, -torch.inf)


def expected(trie, rows, codes, scores, k, keep, ranks):
    leaves = trie.leaf_bases, trie.leaf_deltas, trie.leaf_items
    masks = (None,) * 3
    if keep is not None:
        lists = (None, None) if keep.exclude is None else (keep.exclude.values, keep.exclude.offsets)
        masks = keep.allowed, *lists
    return twins["expand_rows"](rows, codes, scores, scores if ranks is None else ranks, *leaves, k, *masks)


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.cpu(), other)


def on(device, trie, given, k, keep=None, ranks=None):
    if keep is not None:
        exclude = keep.exclude
        exclude = None if exclude is None else Jagged(exclude.values.to(device), exclude.offsets.to(device))
        allowed = None if keep.allowed is None else keep.allowed.to(device)
        keep = trie_filter(trie.to(device), allowed=allowed, exclude=exclude)
    ranks = None if ranks is None else ranks.to(device)
    return expand_rows(trie.to(device), *(part.to(device) for part in given), k, keep, ranks)


@given(data=st.data())
@settings(max_examples=60)
def test_every_device_gives_the_twins_items(data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30), "seed"))
    trie = catalog(data.draw(st.sampled_from([1, 30, 400])), data.draw(st.sampled_from([1, 5, 40])), generator)
    users, beams = data.draw(st.integers(0, 3), "B"), data.draw(st.sampled_from([0, 1, 7, 300]), "W")
    rows, codes, scores = kept_rows(trie, users, beams, generator, ties=data.draw(st.booleans(), "ties"))
    k = data.draw(st.sampled_from([1, 4, 50, 500]), "k")
    kind, keep = data.draw(st.sampled_from(["none", "one", "each", "lists", "both"]), "filter"), None
    if kind != "none" and users:
        allowed = torch.rand(1 if kind == "one" else users, trie.num_items, generator=generator) < 0.5
        lists = [torch.randint(trie.num_items, (6 * row,), generator=generator) for row in range(users)]
        keep = trie_filter(
            trie,
            allowed=None if kind == "lists" else allowed,
            exclude=Jagged.from_rows(lists) if kind in ("lists", "both") else None,
        )
        row = rows.clamp(min=0).long()  # a search with a filter finds no row without an item that passes
        left = torch.zeros(users, trie.num_rows, dtype=torch.bool)
        for user in range(users):
            item = torch.arange(trie.num_items)
            passing = item[keep.keeps(torch.full_like(item, user), item)]
            left[user, trie.item_rows[passing].long()] = True
        rows[~left.gather(1, row)] = -1
        scores[rows < 0] = -torch.inf
    ranks = data.draw(st.sampled_from([None, torch.float32, torch.float64]), "ranks")
    if ranks is not None:
        ranks = torch.randint(-3, 3, rows.shape, generator=generator).to(ranks) * 1e-9 + 1
        ranks[rows < 0] = -torch.inf
    given = rows, codes, scores
    wanted = expected(trie, *given, k, keep, ranks)
    assert_equal(on("cpu", trie, given, k, keep, ranks), wanted)
    for card in every_card():
        assert_equal(on(card, trie, given, k, keep, ranks), wanted)


@pytest.mark.parametrize("items_a_part", [8192, 1000])
@pytest.mark.parametrize("k", [5, 2500])
def test_rows_of_many_items_and_buffers_that_are_cut(card, monkeypatch, items_a_part, k):
    monkeypatch.setattr(_cuda_expand_rows, "_PART_ITEMS", items_a_part)
    generator = torch.Generator().manual_seed(1)
    trie = catalog(6000, 2, generator)  # four rows of 1,500 items
    given = kept_rows(trie, 2, 4, generator, ties=False)
    for scores in (given[2], torch.zeros_like(given[2])):
        own = (*given[:2], scores)
        assert_equal(on(card, trie, own, k), expected(trie, *own, k, None, None))


def test_where_no_row_is_shared_the_filter_of_the_search_is_not_asked_again(device):
    """It may be that of more users than these."""
    trie = build_trie(torch.arange(30).reshape(30, 1), codebook_sizes=(30,)).to(device)
    keep = trie_filter(trie, allowed=torch.zeros(7, 30, dtype=torch.bool, device=device))
    rows = torch.tensor([[4, 9, -1, 2]], dtype=torch.int32, device=device)
    scores = torch.tensor([[-1.0, -2.0, -torch.inf, -1.0]], device=device)
    items, codes, found = expand_rows(trie, rows, rows.unsqueeze(2), scores, 5, keep)
    assert (items.tolist(), codes.flatten().tolist()) == ([[2, 4, 9, -1, -1]], [2, 4, 9, -1, -1])
    assert found.tolist() == [[-1.0, -1.0, -2.0, -torch.inf, -torch.inf]]


def test_what_cannot_be_is_shown_to_nobody(card):
    """Rows and leaves that somebody wrote into, and an excluded item that is not there."""
    generator = torch.Generator().manual_seed(2)
    trie = catalog(200, 5, generator)
    rows, codes, scores = kept_rows(trie, 2, 9, generator, ties=False)
    keep = trie_filter(trie, exclude=Jagged.from_rows([torch.tensor([3]), torch.tensor([5, 6])]))
    right = expected(trie, rows, codes, scores, 8, keep, None)
    keep.exclude.values[2] = 200
    there = trie.to(card)
    items, _, found = expand_rows(there, rows.to(card), codes.to(card), scores.to(card), 8, keep)
    assert torch.equal(items[0].cpu(), right[0][0])
    assert items[1].tolist() == [-1] * 8
    assert bool(found[1].isnan().all())
    for value in (trie.num_rows, 2**31 - 1, -(2**31)):
        wrong = torch.where(rows == rows[0, 0], value, rows).int()
        dead = torch.where(rows == rows[0, 0], -1, rows).int()
        assert_equal(on(card, trie, (wrong, codes, scores), 8), expected(trie, dead, codes, scores, 8, None, None))
    for part in (trie.leaf_bases, trie.leaf_items):
        for value in (-1, 2**31 - 1, -(2**31)):
            altered = catalog(200, 5, torch.Generator().manual_seed(2))
            getattr(altered, "leaf_bases" if part is trie.leaf_bases else "leaf_items").fill_(value)
            items, *_ = on(card, altered, (rows, codes, scores), 8)
            assert bool(((items >= -1) & (items < 200)).all())
    again = rows[:1, :1].clamp(min=0).expand(2, 9).contiguous()
    items, *_ = on(card, trie, (again, codes, scores), 300)
    assert bool(((items >= -1) & (items < 200)).all())


def test_a_card_refuses_what_does_not_fit_together(card):
    generator = torch.Generator().manual_seed(4)
    trie = catalog(60, 4, generator).to(card)
    rows, codes, scores = (part.to(card) for part in kept_rows(trie, 2, 5, generator, ties=True))
    filters = trie_filter(trie, allowed=torch.ones(3, 60, dtype=torch.bool, device=card))
    with pytest.raises(InvalidValueError, match=r"allowed must be bool \[1 or 2, 60\], got torch\.bool \[3, 60\]"):
        expand_rows(trie, rows, codes, scores, 4, filters)
    lists = Jagged(torch.tensor([1], device=card), torch.tensor([0, 1], device=card))
    with pytest.raises(InvalidValueError, match="expand_rows: exclude must be for 2 users, got 1"):
        expand_rows(trie, rows, codes, scores, 4, trie_filter(trie, exclude=lists))
    with pytest.raises(InvalidValueError, match=r"must be of rows \[2, 5\], got \[2, 5, 2\], \[2, 4\] and \[2, 4\]"):
        expand_rows(trie, rows, codes, scores[:, :4], 4, None)
    with pytest.raises(InvalidTypeError, match=r"rows must be torch\.int32, got torch\.int64"):
        expand_rows(trie, rows.long(), codes, scores, 4, None)


def test_what_the_processor_cannot_follow_is_refused():
    generator = torch.Generator().manual_seed(2)

    def altered(part, value):
        trie = catalog(200, 5, torch.Generator().manual_seed(2))
        getattr(trie, part).fill_(value)
        return trie

    trie = catalog(200, 5, generator)
    rows, codes, scores = kept_rows(trie, 2, 9, generator, ties=False)
    for value in (trie.num_rows, 2**31 - 1):
        wrong = torch.where(rows == rows[0, 0], value, rows).int()
        with pytest.raises(InvalidValueError, match=f"rows must be below 25, got {value} for user 0, beam 0"):
            expand_rows(trie, wrong, codes, scores, 8, None)
    dead = torch.where(rows == rows[0, 0], -(2**31), rows).int()
    none = torch.where(rows == rows[0, 0], -1, rows).int()
    assert_equal(expand_rows(trie, dead, codes, scores, 8, None), expected(trie, none, codes, scores, 8, None, None))
    for part, value in itertools.product(("leaf_bases", "leaf_items"), (-(2**31), -1, 2**31 - 1)):
        with pytest.raises(InvalidValueError, match=r"expand_rows: leaf_(items|offsets) must be in"):
            expand_rows(altered(part, value), rows, codes, scores, 8, None)
    keep = trie_filter(trie, exclude=Jagged.from_rows([torch.tensor([3]), torch.tensor([5, 6])]))
    keep.exclude.values[2] = 200
    with pytest.raises(InvalidValueError, match=r"exclude must hold item ids in \[0, 200\), got 200 for user 1"):
        expand_rows(trie, rows, codes, scores, 8, keep)
    keep.exclude.offsets[1] = 7
    with pytest.raises(InvalidValueError, match="exclude must have offsets that do not decrease up to 3, got 0 to 7"):
        expand_rows(trie, rows, codes, scores, 8, keep)
    for part, name in ((rows.long(), "rows"), (rows, "codes")):
        with pytest.raises((InvalidTypeError, InvalidValueError), match=f"expand_rows: {name} must be int32"):
            expand_rows(trie, part, codes if name == "rows" else codes[:, :4], scores, 8, None)


def test_ranks_of_every_kind(device):
    """Both zeros are one rank, NaN stands above all, and where all are equal the lower item comes first."""
    trie = build_trie(torch.arange(6).reshape(6, 1), codebook_sizes=(6,))
    rows = torch.tensor([[4, 1, 5, 0, 3]], dtype=torch.int32)
    ranks = torch.tensor([[0.0, -0.0, torch.nan, -torch.inf, 0.0]])
    scores = torch.arange(5.0)[None]
    items, codes, found = on(device, trie, (rows, rows.unsqueeze(2), scores), 6, ranks=ranks)
    assert items.tolist() == [[5, 1, 3, 4, 0, -1]]
    assert codes.flatten().tolist() == [5, 1, 3, 4, 0, -1]
    assert found.tolist() == [[2.0, 1.0, 4.0, 0.0, 3.0, -torch.inf]]


@pytest.mark.threads
def test_threads_give_the_same_items():
    generator = torch.Generator().manual_seed(7)
    trie = catalog(3000, 20, generator)
    given = kept_rows(trie, 400, 60, generator, ties=True)
    keep = trie_filter(trie, exclude=Jagged.from_rows([torch.arange(user % 9) for user in range(400)]))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = expand_rows(trie, *given, 20, keep)
        torch.set_num_threads(4)
        assert_equal(expand_rows(trie, *given, 20, keep), one)
    finally:
        torch.set_num_threads(before)


def test_torch_knows_it():
    generator = torch.Generator().manual_seed(3)
    trie = catalog(60, 4, generator)
    rows, codes, scores = kept_rows(trie, 2, 5, generator, ties=True)
    leaves = trie.leaf_bases, trie.leaf_deltas, trie.leaf_items
    arguments = (rows, codes, scores, scores, *leaves, 7, None, None, None)
    torch.library.opcheck(torch.ops.genrec_fast.expand_rows.default, arguments)


RACES = """
import functools, torch
import genrec_fast as gf
from emulator.build import run
from emulator.test_emulator import THREADS
from genrec_fast.ops import _cuda, _cuda_expand_rows, trie_filter
from genrec_fast.ops.expand_rows import expand_rows
torch.set_num_threads(1)
trie = gf.build_trie(torch.randint(0, 3, (2800, 1)))
keep = trie_filter(trie, exclude=gf.Jagged.from_rows([torch.tensor([1, 2])]))
_cuda.use_emulator(functools.partial(run, flags=THREADS))
_cuda_expand_rows._PART_ITEMS = 1400
rows, codes = torch.tensor([[2, 0, 1]], dtype=torch.int32), torch.zeros(1, 3, 1, dtype=torch.int32)
expand_rows(trie, rows, codes, torch.tensor([[0.0, 1.0, 1.0]]), 30, keep)
print("done")
"""


@pytest.mark.slow
def test_no_kernel_of_it_misses_a_barrier():
    assert_no_race(RACES)

"""trie_filter against its twin and against sets of items."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops._registry import twins
from genrec_fast.ops.trie_filter import trie_filter
from genrec_fast.ops.trie_step import trie_step

module = importlib.import_module("genrec_fast.ops.trie_filter")  # the package has the function under this name


def catalog(generator: torch.Generator, items: int) -> Trie:
    """Items that share semantic IDs now and then."""
    return build_trie(torch.randint(0, 7, (items, 3), generator=generator), codebook_sizes=(7, 7, 7))


def rows_left(trie: Trie, allowed: Tensor | None, excluded: Tensor) -> set[int]:
    left = torch.ones(trie.num_items, dtype=torch.bool) if allowed is None else allowed.clone()
    left[excluded] = False
    return set(trie.item_rows[left].tolist())


@given(
    seed=st.integers(0, 2**30),
    items=st.sampled_from([1, 9, 64, 200, 2000]),
    kind=st.sampled_from(["one", "each", "none"]),
)
def test_leaves_exactly_the_rows_that_keep_an_item(seed, items, kind):
    generator = torch.Generator().manual_seed(seed)
    trie = catalog(generator, items)
    users = 3
    share = float(torch.rand((), generator=generator))
    shape = {"one": (items,), "each": (users, items), "none": (0,)}[kind]
    allowed = None if kind == "none" else torch.rand(shape, generator=generator) < share
    exclude = Jagged.from_rows([torch.randint(0, items, (count,), generator=generator) for count in (0, 5, 3 * items)])
    flt = trie_filter(trie, allowed=allowed, exclude=exclude)
    assert flt.num_users == users
    # through a search that is wider than the catalog
    nodes, scores = torch.zeros(users, 1, dtype=torch.int32), torch.zeros(users, 1)
    for level in range(3):
        step = trie_step(trie, level, torch.zeros(users, nodes.shape[1], 7), nodes, scores, num_beams=400, allowed=flt)
        nodes, scores = step.nodes, step.scores
        assert bool((step.bound == -torch.inf).all())
    for user in range(users):
        of_user = allowed if allowed is None or allowed.dim() == 1 else allowed[user]
        assert {n for n in nodes[user].tolist() if n >= 0} == rows_left(trie, of_user, exclude[user])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**30), items=st.sampled_from([1, 63, 64, 65, 700, 5000]), users=st.sampled_from([1, 4]))
def test_equals_its_twin(device, seed, items, users):
    generator = torch.Generator().manual_seed(seed)
    trie = catalog(generator, items)
    allowed = torch.rand(users, items, generator=generator) < 0.5
    lists = Jagged.from_rows([torch.randint(0, items, (items // 2,), generator=generator) for _ in range(users)])
    there = trie.to(device)
    for of in (None, allowed, allowed[:1]):
        flt = trie_filter(there, allowed=None if of is None else of.to(device), exclude=lists.to(device))
        leaves = (trie.leaf_bases, trie.leaf_deltas, trie.leaf_items)
        rows, offsets = twins["trie_filter_exclude"](trie.item_rows, *leaves, of, lists.values, lists.offsets)
        assert torch.equal(flt.excluded.cpu(), rows)
        assert torch.equal(flt.excluded_offsets.cpu(), offsets)
        if of is not None:
            bits, ranks = twins["trie_filter_allow"](trie.item_rows, of, trie.num_rows)
            assert torch.equal(flt.bits.cpu(), bits)
            assert torch.equal(flt.ranks.cpu(), ranks)


def test_ranks_of_more_words_than_a_block_counts(device):
    rows = torch.randperm(600_000, generator=torch.Generator().manual_seed(0)).int()
    allowed = torch.rand(2, 600_000, generator=torch.Generator().manual_seed(1)) < torch.tensor([[0.5], [0.001]])
    found = torch.ops.genrec_fast.trie_filter_allow(rows.to(device), allowed.to(device), 600_000)
    expected = twins["trie_filter_allow"](rows, allowed, 600_000)
    assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(found, expected, strict=True))


def test_an_id_outside_the_catalog_marks_its_user_on_a_card(card):
    trie = build_trie(torch.tensor([[0, 1], [1, 0], [1, 2], [1, 2]])).to(card)
    logits, nodes = torch.zeros(3, 1, 2, device=card), torch.zeros(3, 1, dtype=torch.int32, device=card)

    def steps(lists: Jagged) -> list[list[int]]:
        flt = trie_filter(trie, exclude=lists.to(card))
        return trie_step(
            trie, 0, logits, nodes, torch.zeros(3, 1, device=card), num_beams=2, allowed=flt
        ).nodes.tolist()

    for wrong in (4, -1, 1 << 40):
        assert steps(Jagged.from_rows([[0], [0, wrong], [3, 1]])) == [[1, -1], [-2, -2], [0, 1]]
    for offsets in ([0, 3, 2, 5], [0, -1, 3, 5], [0, 1, 3, 6], [0, 1 << 40, 3, 5]):
        flt = trie_filter(trie, exclude=Jagged.from_rows([[0], [0, 1], [3, 1]]).to(card))
        leaves = (trie.item_rows, trie.leaf_bases, trie.leaf_deltas, trie.leaf_items)
        ends = torch.tensor(offsets, device=card)
        rows, broken = torch.ops.genrec_fast.trie_filter_exclude(*leaves, None, flt.exclude.values, ends)
        assert broken.tolist() == [-1] * 4
        assert rows.tolist() == [0] * 5


def test_a_shared_semantic_id_stays_until_its_last_item_is_gone():
    trie = build_trie(torch.tensor([[0, 0], [0, 0], [1, 1], [0, 0]]))

    def left(allowed: list[bool] | None, exclude: list[int]) -> list[int]:
        given = None if allowed is None else torch.tensor(allowed)
        flt = trie_filter(trie, allowed=given, exclude=Jagged.from_rows([exclude]))
        start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
        return [c for c, n in zip(*(t[0].tolist() for t in _codes_and_nodes(trie, flt, start)), strict=True) if n >= 0]

    assert left(None, [0, 1, 0]) == [0, 1]
    assert left(None, [0, 1, 3]) == [1]
    assert left([True, True, True, False], [0]) == [0, 1]
    assert left([True, True, True, False], [1, 0]) == [1]
    assert left([False, False, True, False], []) == [1]
    assert left([False, False, True, False], [2]) == []


def _codes_and_nodes(trie, flt, start):
    step = trie_step(trie, 0, torch.zeros(1, 1, 2), *start, num_beams=2, allowed=flt)
    return step.codes, step.nodes


@pytest.mark.parametrize("kind", ["one", "each", "none"])
@pytest.mark.parametrize("lists", [True, False])
def test_a_selection_is_the_filter_of_those_users(kind, lists):
    generator = torch.Generator().manual_seed(3)
    trie, users = catalog(generator, 200), torch.tensor([3, 0, 3])
    shape = {"one": (200,), "each": (4, 200), "none": (0,)}[kind]
    allowed = None if kind == "none" else torch.rand(shape, generator=generator) < 0.3
    rows = [torch.randint(0, 200, (count,), generator=generator) for count in (150, 0, 7, 90)]
    exclude = Jagged.from_rows(rows) if lists else None
    found = trie_filter(trie, allowed=allowed, exclude=exclude).select(users)
    wanted = trie_filter(
        trie,
        allowed=allowed[users] if kind == "each" else allowed,
        exclude=exclude.select(users) if lists else None,
    )
    assert found.num_users == wanted.num_users
    nodes, scores = torch.zeros(3, 1, dtype=torch.int32), torch.zeros(3, 1)
    logits = torch.randn(3, 1, 7, generator=generator)
    steps = [trie_step(trie, 0, logits, nodes, scores, num_beams=9, allowed=keep) for keep in (found, wanted)]
    assert torch.equal(steps[0].nodes, steps[1].nodes)
    user, item = torch.cartesian_prod(torch.arange(3), torch.arange(200)).T.contiguous()
    assert torch.equal(found.keeps(user, item), wanted.keeps(user, item))


def test_keeps_says_whether_an_item_may_be_shown():
    generator = torch.Generator().manual_seed(5)
    trie = catalog(generator, 50)
    allowed = torch.rand(2, 50, generator=generator) < 0.5
    exclude = Jagged.from_rows([[0, 1, 2], [40, 41, 49]])
    users, items = torch.arange(2).repeat_interleave(50), torch.arange(50).repeat(2)
    expected = allowed.clone()
    expected[0, :3] = False
    expected[1, [40, 41, 49]] = False
    assert torch.equal(trie_filter(trie, allowed=allowed, exclude=exclude).keeps(users, items).view(2, 50), expected)
    assert torch.equal(trie_filter(trie, allowed=allowed[0]).keeps(users, items).view(2, 50)[1], allowed[0])
    nothing = trie_filter(trie, exclude=Jagged.from_rows([[], []]))
    assert bool(nothing.keeps(users, items).all())
    assert nothing.keeps(users[:0], items[:0]).tolist() == []


TRIE = build_trie(torch.tensor([[0, 1], [1, 0], [1, 2]]), codebook_sizes=(2, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"allowed": torch.ones(3)}, InvalidTypeError, "trie_filter: allowed must be bool, got float32"),
        (
            {"allowed": torch.ones(2, dtype=torch.bool)},
            InvalidValueError,
            r"trie_filter: allowed must be \[3\] or \[B, 3\] \(one entry per item\), got \[2\]",
        ),
        (
            {"exclude": Jagged.from_rows([[0.5]], dtype=torch.float32)},
            InvalidTypeError,
            "trie_filter: exclude must hold integer item ids, got float32",
        ),
        (
            {"exclude": Jagged(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([0, 1]))},
            InvalidValueError,
            r"trie_filter: exclude must hold values \[E\], got \[1, 2\]",
        ),
        (
            {"exclude": Jagged.from_rows([[0], [2, 3]])},
            InvalidValueError,
            r"trie_filter: exclude must hold item ids in \[0, 3\), got 3 for user 1",
        ),
        (
            {"exclude": Jagged.from_rows([[-1]])},
            InvalidValueError,
            r"trie_filter: exclude must hold item ids in \[0, 3\), got -1 for user 0",
        ),
        (
            {"allowed": torch.ones(2, 3, dtype=torch.bool), "exclude": Jagged.from_rows([[0]])},
            InvalidValueError,
            "trie_filter: exclude must have one row per user of allowed, 2, got 1",
        ),
    ],
)
def test_bad_input_is_named(arguments, error, text):
    with pytest.raises(error, match=text):
        trie_filter(TRIE, **arguments)


def test_the_twin_refuses_ids_outside_the_catalog():
    leaves = (TRIE.leaf_bases, TRIE.leaf_deltas, TRIE.leaf_items)
    with pytest.raises(InvalidValueError, match=r"got 7 for user 1"):
        twins["trie_filter_exclude"](TRIE.item_rows, *leaves, None, torch.tensor([0, 7]), torch.tensor([0, 1, 2]))


def test_are_torch_ops():
    ops = torch.ops.genrec_fast
    torch.library.opcheck(ops.trie_filter_allow.default, (TRIE.item_rows, torch.ones(2, 3, dtype=torch.bool), 3))
    leaves = (TRIE.leaf_bases, TRIE.leaf_deltas, TRIE.leaf_items)
    lists = (torch.tensor([0, 2, 2]), torch.tensor([0, 1, 3]))
    torch.library.opcheck(ops.trie_filter_exclude.default, (TRIE.item_rows, *leaves, None, *lists))


def test_lists_must_be_jagged():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(InvalidTypeError, match=r"trie_filter: exclude must be Jagged .* got list"):
        trie_filter(trie, exclude=[[0]])

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops import _registry
from genrec_fast.ops.reference.trie_places import trie_places as twin
from genrec_fast.ops.trie_places import trie_places
from shared.cards import every_card


def parts(trie):
    return list(trie.tokens), list(trie.child_bases), list(trie.child_deltas)


@st.composite
def pairs(draw):
    """Semantic IDs of two catalogs over the same codebooks."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 5, 300]), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    counts = draw(st.integers(1, 80)), draw(st.integers(1, 30))
    return sizes, *(
        torch.stack([torch.randint(min(size, 8), (n,), generator=generator) for size in sizes], 1) for n in counts
    )


@given(pairs())
def test_every_node_gets_the_number_that_it_has_in_a_trie_of_both(case):
    sizes, large, small = case
    base, added = build_trie(large, codebook_sizes=sizes), build_trie(small, codebook_sizes=sizes)
    both = build_trie(torch.cat([large, small]), codebook_sizes=sizes)
    found = trie_places(base, added)
    for level in range(len(sizes)):
        before, shared = found.before[level], found.shared[level]
        assert (before.dtype, shared.dtype) == (torch.int32, torch.bool)
        new = (~shared).long()
        node, prefixes = added.lookup(small[:, : level + 1]).long(), small[:, : level + 1]
        assert torch.equal((before + new.cumsum(0) - new)[node], both.lookup(prefixes).long())
        assert torch.equal(shared[node], base.lookup(prefixes) >= 0)


@given(pairs())
def test_equal_to_the_twin(case):
    sizes, large, small = case
    base, added = build_trie(large, codebook_sizes=sizes), build_trie(small, codebook_sizes=sizes)
    found, expected = trie_places(base, added), twin(*parts(base), *parts(added))
    assert all(map(torch.equal, found.before, expected[0]))
    assert all(map(torch.equal, found.shared, expected[1]))


@given(pairs())
def test_a_card_gives_the_same(case):
    sizes, large, small = case
    base, added = build_trie(large, codebook_sizes=sizes), build_trie(small, codebook_sizes=sizes)
    expected = twin(*parts(base), *parts(added))
    for card in every_card():
        found = trie_places(base.to(card), added.to(card))
        for one, other in zip((*found.before, *found.shared), (*expected[0], *expected[1]), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one.cpu(), other)


def test_wide_nodes_on_a_card(card):
    """A root of 3,000 children, more than the threads that share a node, and one of a single child beside it."""
    generator = torch.Generator().manual_seed(0)
    sizes = (5000, 2)
    large, small = (torch.stack([torch.randperm(5000, generator=generator)[:3000]] * 2, 1) for _ in range(2))
    base, added = (build_trie(codes % torch.tensor(sizes), codebook_sizes=sizes) for codes in (large, small))
    expected = twin(*parts(base), *parts(added))
    found = trie_places(base.to(card), added.to(card))
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found.before, expected[0], strict=True))
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found.shared, expected[1], strict=True))
    few = trie_places(base.to(card), build_trie([[17, 1]], codebook_sizes=sizes).to(card))
    assert few.before[0].tolist() == [int((base.tokens[0].int() < 17).sum())]


def test_by_hand():
    base = build_trie([[1, 0], [1, 2], [3, 3]], codebook_sizes=(4, 4))
    found = trie_places(base, build_trie([[0, 1], [1, 1], [1, 2], [2, 0], [3, 0]], codebook_sizes=(4, 4)))
    assert [part.tolist() for part in found.before] == [[0, 0, 1, 1], [0, 1, 1, 2, 2]]
    assert [part.tolist() for part in found.shared] == [
        [False, True, False, True],
        [False, False, True, False, False],
    ]


def test_opcheck():
    trie = build_trie([[1, 0], [1, 2]], codebook_sizes=(4, 4))
    arguments = (*parts(trie), *parts(trie), [4, 4])
    torch.library.opcheck(torch.ops.genrec_fast.trie_places.default, arguments)
    before, shared = _registry.twins["trie_places"](*arguments)
    assert [part.tolist() for part in (*before, *shared)] == [[0], [0, 1], [True], [True, True]]


def test_what_an_altered_trie_leaves_out_is_not_followed(device):
    count = torch.arange(4000)
    codes = torch.stack([count // 64, count // 8 % 8, count % 8], 1)
    base, added = (build_trie(codes, codebook_sizes=(63, 8, 8)) for _ in range(2))
    added.child_bases[1][1] = 1 << 30  # nodes 15 to 31 have no children, but these are there
    found = trie_places(base.to(device), added.to(device))
    assert found.before[1][120:256].tolist() == [0] * 136
    assert not bool(found.shared[1][120:256].any())
    assert torch.equal(found.before[1][256:].cpu(), torch.arange(256, 500).int())


def test_altered_tries_are_not_read_outside_of_on_a_card(card):
    generator = torch.Generator().manual_seed(2)
    sizes = (7, 9, 300)
    codes = [torch.stack([torch.randint(n, (60,), generator=generator) for n in sizes], 1) for _ in range(2)]
    base, added = (build_trie(part, codebook_sizes=sizes).to(card) for part in codes)
    for part in (*base.child_bases, *base.child_deltas, *base.tokens, *added.child_bases, *added.tokens):
        kept = part.clone()
        for value in (0, -1, -(2**31), 2**31 - 1):
            part.fill_(value if part.dtype == torch.int32 else value & 0xFF)
            found = trie_places(base, added)
            for level, before in enumerate(found.before):
                assert bool(((before >= 0) & (before <= len(base.tokens[level]))).all())
        part.copy_(kept)


def test_bad_tries_are_refused():
    trie = build_trie([[1, 0], [1, 2]], codebook_sizes=(4, 4))
    with pytest.raises(InvalidTypeError, match="trie_places: trie must be a trie"):
        trie_places(trie, [[1, 0]])
    with pytest.raises(InvalidValueError, match=r"added must have the base's codebook sizes \(4, 4\), got \(4, 5\)"):
        trie_places(trie, build_trie([[1, 0]], codebook_sizes=(4, 5)))
    with pytest.raises(InvalidValueError, match="added must have the base's codebook sizes"):
        trie_places(trie, build_trie([[1]], codebook_sizes=(4,)))

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops import _registry, draft_tree
from genrec_fast.ops.reference.draft_tree import draft_tree as twin


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def longs(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_by_hand():
    """One user read nothing but his prompt, the other code 5 and below it code 6, and stands a level further."""
    tree = draft_tree(
        longs([0, 0, 0], [0, 0, 1]),
        ints([-1, -1, -1], [-1, 5, 6]),
        longs([2, 2], [1, 0]),
        longs(0, 1),
        [ints([8, -1, 9], [3, 4, -1]), ints([7, 6], [2, -1])],
        [longs([0, 0, 1], [0, 1, 0]), longs([2, 0], [1, 0])],
        [ints([5, 5, 6], [6, 5, 0]), ints([1, 2], [6, 0])],
    )
    assert tree.counts.tolist() == [4, 0]
    assert [part.tolist() for part in tree.numbers] == [[[3, -1, 4], [2, 1, -1]], [[5, 6], [2, -1]]]
    assert tree.nodes.tolist() == [[8, 9, 7, 6], [-1] * 4]
    assert tree.parents.tolist() == [[2, 2, 4, 3], [0] * 4]
    assert tree.codes.tolist() == [[5, 6, 1, 2], [-1] * 4]
    assert tree.levels.tolist() == [[0, 0, 1, 1], [0] * 4]


@st.composite
def drafts(draw):
    """Rows that were read, and levels below some of them; a parent is always a prefix."""
    users, rows, depth = draw(st.integers(0, 3)), draw(st.integers(1, 8)), draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))

    def whole(high, *shape):
        return torch.randint(high, shape, generator=generator)

    codes = whole(4, users, rows) - 1
    parents = torch.stack([whole(max(row, 1), users) for row in range(rows)], 1)
    above = whole(rows, users, draw(st.integers(1, 4)))
    live = torch.ones_like(above, dtype=torch.bool)
    lists = [], [], []
    for _ in range(depth):
        width = draw(st.integers(0, 5))
        place = whole(live.shape[1], users, width) if live.shape[1] else torch.zeros(users, width, dtype=torch.int64)
        there = live.gather(1, place) if live.shape[1] else torch.zeros(users, width, dtype=torch.bool)
        live = there & (whole(4, users, width) > 0)
        for part, value in zip(
            lists, (whole(9, users, width).where(live, -1).int(), place, whole(3, users, width)), strict=True
        ):
            part.append(value)
    lists = lists[0], lists[1], [part.int() for part in lists[2]]
    return parents, codes.int(), above, whole(5, users), *lists


@given(drafts())
def test_equal_to_the_twin(case):
    found, expected = draft_tree(*case), twin(*case)
    most = int(expected[4].max()) if len(expected[4]) else 0
    for part, right in zip(found[:4], expected[:4], strict=True):
        assert torch.equal(part, right[:, :most])
        assert part.dtype == right.dtype
    assert torch.equal(found.counts, expected[4])
    assert torch.equal(torch.cat([*found.numbers, expected[5][:, :0]], 1), expected[5])


@given(drafts())
def test_every_prefix_is_one_row_behind_that_of_its_parent(case):
    row_parents, row_codes, above, levels, nodes, parents, codes = case
    tree = draft_tree(*case)
    read = row_codes.shape[1]
    over, wrote = torch.cat([row_parents, tree.parents], 1), torch.cat([row_codes, tree.codes], 1)
    for depth, numbers in enumerate(tree.numbers):
        for user, place in (nodes[depth] >= 0).nonzero().tolist():
            row = int(numbers[user, place])
            assert int(wrote[user, row]) == int(codes[depth][user, place])
            assert int(over[user, row]) == int(above[user, parents[depth][user, place]])
            if row >= read:
                assert int(tree.levels[user, row - read]) == int(levels[user]) + depth
                assert int(tree.nodes[user, row - read]) == int(nodes[depth][user, place])
        assert bool((numbers[nodes[depth] < 0] == -1).all())
        above = numbers


def arguments():
    level = [ints([4, 7])], [longs([0, 0])], [ints([4, 7])]
    return {"row_parents": longs([0]), "row_codes": ints([-1]), "above": longs([0]), "levels": longs(0)} | dict(
        zip(("nodes", "parents", "codes"), level, strict=True)
    )


def test_opcheck():
    given = tuple(arguments().values())
    torch.library.opcheck(torch.ops.genrec_fast.draft_tree.default, given)
    for found, right in zip(_registry.twins["draft_tree"](*given), twin(*given), strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize("run", [draft_tree, lambda **given: _registry.twins["draft_tree"](*given.values())])
def test_messages_name_argument_rule_and_value(run):
    with pytest.raises(InvalidValueError, match=r"parents must be in \[0, 1\), got 3 for user 0 in level 0"):
        run(**arguments() | {"parents": [longs([0, 3])]})
    with pytest.raises(InvalidValueError, match=r"draft_tree: parents must be prefixes, got 0 for user 0 in level 0"):
        run(**arguments() | {"above": longs([1])})
    with pytest.raises(InvalidValueError, match=r"draft_tree: codes must be at least 0, got "):
        run(**arguments() | {"codes": [ints([4, -1])]})
    with pytest.raises(InvalidValueError, match=r"row_parents must be in \[0, 1\), got 2 for user 0, row 0"):
        run(**arguments() | {"row_parents": longs([2]), "row_codes": ints([0])})


def test_shapes_and_kinds_are_named():
    with pytest.raises(InvalidTypeError, match=r"draft_tree: nodes\[0\] must be int32 \[1, n0\], got int64 \[1, 2\]"):
        draft_tree(**arguments() | {"nodes": [longs([4, 7])]})
    with pytest.raises(InvalidValueError, match=r"draft_tree: codes\[0\] must be \[1, 2\], got \[1, 1\]"):
        draft_tree(**arguments() | {"codes": [ints([4])]})
    with pytest.raises(InvalidValueError, match=r"as many levels each, got nodes 1, parents 1, codes 0"):
        draft_tree(**arguments() | {"codes": []})
    with pytest.raises(InvalidTypeError, match="draft_tree: above must be a tensor, got int"):
        draft_tree(**arguments() | {"above": 3})

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops import graph_step, topk_code_sums
from genrec_fast.ops.reference.graph_step import graph_step as twin
from ops.test_topk_code_sums import KINDS, case
from shared.cards import every_place


def graph(items, edges, generator):
    """int32 [N, E]: each item among its own neighbours, some places empty."""
    near = torch.randint(-1, items, (items, edges), generator=generator, dtype=torch.int32)
    if edges:
        near[:, 0] = torch.arange(items)
    return near


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.cpu(), other)


@given(
    st.sampled_from(KINDS),
    st.integers(0, 5),
    st.integers(1, 200),
    st.integers(0, 30),
    st.integers(0, 20),
    st.integers(1, 40),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(0, 2**31),
)
@settings(max_examples=80)
def test_equals_the_twin(kind, users, items, edges, stand, num_beams, sizes, seed):
    x, codes, generator = case(kind, users, items, sizes, seed)
    near = graph(items, edges, generator)
    start = torch.randint(-1, items, (users, stand), generator=generator, dtype=torch.int32)
    wanted = twin(x, codes, near, start, num_beams, sizes)
    for place in every_place():
        there = near.to(place), start.to(place)
        for dtype in (torch.uint8, torch.int32):
            found = graph_step(x.to(place), codes.to(place, dtype), *there, num_beams, codebook_sizes=sizes)
            assert_equal(found, wanted)


def test_by_hand():
    """From item 0 to its neighbours 0, 2 and 3, of which 2 and 3 score the same; nobody sees item 1."""
    codes = torch.tensor([[0], [1], [2], [2]], dtype=torch.uint8)
    near = torch.tensor([[3, 2, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]], dtype=torch.int32)
    found = graph_step(
        torch.tensor([[-2.0, -0.5, -1.0]]), codes, near, torch.tensor([[0, -1]], dtype=torch.int32), 5,
        codebook_sizes=(3,),
    )  # fmt: skip
    assert found.items.tolist() == [[2, 3, 0, -1, -1]]
    assert found.scores.tolist() == [[-1.0, -1.0, -2.0, -torch.inf, -torch.inf]]
    assert found.num_seen.tolist() == [3]


@pytest.mark.parametrize("whole", ["edges", "beams"])
def test_with_every_item_in_reach_it_is_the_exhaustive_scan(place, whole):
    """60 items, 4 x 8 codes: edges = N, or a walk from all N items."""
    x, codes, generator = case("softmax", 9, 60, (8,) * 4, 0)
    everyone = torch.arange(60, dtype=torch.int32)
    if whole == "edges":
        near = torch.stack([everyone[torch.randperm(60, generator=generator)] for _ in range(60)])
        start = torch.randint(60, (9, 1), generator=generator, dtype=torch.int32)
    else:
        near, start = graph(60, 3, generator), everyone.expand(9, -1)
    x, codes, near, start = (part.to(place) for part in (x, codes, near, start))
    found = graph_step(x, codes, near, start, 10, codebook_sizes=(8,) * 4)
    scores, ids = topk_code_sums(x, codes, 10, codebook_sizes=(8,) * 4)
    assert torch.equal(found.items.long(), ids)
    assert torch.equal(found.scores, scores)
    assert found.num_seen.tolist() == [60] * 9


def test_a_walk_stands_at_the_best_that_it_has_seen():
    x, codes, generator = case("softmax", 4, 300, (8,) * 4, 1)
    near = graph(300, 6, generator)
    items = torch.randint(300, (4, 5), generator=generator, dtype=torch.int32)
    seen = [set() for _ in range(4)]
    for _ in range(6):
        for user, own in enumerate(items):
            seen[user] |= set(near[own[own >= 0].long()].flatten().tolist()) - {-1}
        items, scores, _ = graph_step(x, codes, near, items, 5, codebook_sizes=(8,) * 4)
        allowed = torch.zeros(4, 300, dtype=torch.bool)
        for user, known in enumerate(seen):
            allowed[user, list(known)] = True
        best, ids = topk_code_sums(x, codes, 5, codebook_sizes=(8,) * 4, allowed=allowed)
        assert torch.equal(items.long(), ids)
        assert torch.equal(scores, best)


def test_strides_on_a_card_and_more_beams_than_a_block_sorts_in_shared_memory(card):
    x, codes, generator = case("integers", 2, 3000, (9, 4, 3, 5), 2)
    near = torch.randint(-1, 3000, (3000, 40), generator=generator, dtype=torch.int32)
    start = torch.randint(-1, 3000, (2, 160), generator=generator, dtype=torch.int32)
    wanted = twin(x[:, :12], codes[:, ::2], near[:, ::2], start[:, ::2], 2300, (9, 3))
    x, codes, near, start = (part.to(card) for part in (x, codes, near, start))
    assert_equal(graph_step(x[:, :12], codes[:, ::2], near[:, ::2], start[:, ::2], 2300, codebook_sizes=(9, 3)), wanted)


def test_a_card_marks_the_users_that_have_no_answer(card):
    x, codes, _ = case("normal", 3, 20, (5, 4), 3)
    near = torch.arange(20, dtype=torch.int32)[:, None] + torch.tensor([[0, -1]], dtype=torch.int32)
    start = torch.tensor([[1, 2], [7, 8], [15, -1]], dtype=torch.int32)
    wanted = twin(x, codes, near, start, 3, (5, 4))

    def found(wrong, **changes):
        given = {"logprobs": x, "item_codes": codes, "neighbours": near, "items": start, **changes}
        out = graph_step(**{name: part.to(card) for name, part in given.items()}, num_beams=3, codebook_sizes=(5, 4))
        for user in range(3):
            if user in wrong:
                assert (out.items[user].tolist(), out.num_seen[user].item()) == ([-2] * 3, -1)
                assert bool(out.scores[user].isnan().all())
            else:
                assert_equal([part[user] for part in out], [part[user] for part in wanted])
        return out

    def altered(tensor, place, value):
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    found([])
    for value in (torch.nan, torch.inf):
        found([1], logprobs=altered(x, (1, 8), value))
    for value in (20, -2, 2**31 - 1, -(2**31)):
        out = found([2], items=altered(start, (2, 0), value))
        found([1], neighbours=altered(near, (7, 0), value))
    found([2], items=torch.where(torch.arange(3)[:, None] == 2, out.items.cpu()[:, :2], start))  # goes on to be refused
    found([0], item_codes=altered(codes, (2, 1), 4))
    found([0], item_codes=altered(codes.int(), (0, 0), -1))


@pytest.mark.threads
def test_threads_change_no_bit(threads):
    x, codes, generator = case("integers", 50, 2000, (16,) * 12, 3)
    near, found = graph(2000, 40, generator), []
    start = torch.randint(2000, (50, 10), generator=generator, dtype=torch.int32)
    for count in (1, 2, 4):
        threads(count)
        found.append(graph_step(x, codes, near, start, 20, codebook_sizes=(16,) * 12))
    for other in found[1:]:
        assert_equal(other, found[0])
    assert_equal(found[0], twin(x, codes, near, start, 20, (16,) * 12))


def test_torch_knows_it():
    x, codes, generator = case("normal", 3, 40, (8, 5), 0)
    near, start = graph(40, 4, generator), torch.tensor([[1, 2], [3, -1], [7, 7]], dtype=torch.int32)
    op = torch.ops.genrec_fast.graph_step.default
    torch.library.opcheck(op, (x, codes, near, start, 4, [8, 5]))
    compiled = torch.compile(
        lambda a: graph_step(a, codes, near, start, 4, codebook_sizes=(8, 5)), fullgraph=True, backend="eager"
    )
    assert_equal(compiled(x), twin(x, codes, near, start, 4, (8, 5)))


def test_messages_name_argument_rule_and_value():
    x, codes = torch.zeros(2, 5), torch.tensor([[0, 1], [1, 2]], dtype=torch.uint8)
    near, start = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32), torch.zeros(2, 1, dtype=torch.int32)

    def step(**changes):
        given = {"logprobs": x, "item_codes": codes, "neighbours": near, "items": start, "num_beams": 2}
        return graph_step(**{**given, "codebook_sizes": (2, 3), **changes})

    with pytest.raises(InvalidValueError, match=r"graph_step: logprobs must be finite or -inf, got NaN .* in row 0"):
        step(logprobs=torch.full((2, 5), torch.nan))
    with pytest.raises(InvalidValueError, match=r"graph_step: items must be in \[-1, 2\), got 2 for user 0"):
        step(items=start + 2)
    with pytest.raises(InvalidValueError, match=r"graph_step: neighbours must be in \[-1, 2\), got -2 for item 0"):
        step(neighbours=near - 2)
    with pytest.raises(InvalidValueError, match=r"item_codes of level 1 must be in \[0, 2\), got 2 for item 1"):
        step(codebook_sizes=(3, 2))
    with pytest.raises(InvalidTypeError, match=r"graph_step: items must be int32 \[2, F\], got torch.int64"):
        step(items=start.long())
    with pytest.raises(InvalidTypeError, match=r"graph_step: neighbours must be int32 \[2, E\], got torch.int64"):
        step(neighbours=near.long())
    with pytest.raises(InvalidValueError, match=r"graph_step: neighbours must be \[2, E\], got \[1, 2\]"):
        step(neighbours=near[:1])
    with pytest.raises(InvalidValueError, match="graph_step: num_beams must be at least 1, got 0"):
        step(num_beams=0)

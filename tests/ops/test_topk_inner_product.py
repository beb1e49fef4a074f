"""topk_inner_product: bit-equal to its twin on every instruction set, whatever the rounding of the products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda_topk, _rq_levels, topk_inner_product
from genrec_fast.ops.reference.topk_inner_product import topk_inner_product as twin
from shared.isas import every_isa

KINDS = ["normal", "integers", "equal", "cancelling", "huge", "tiny", "ascending"]


def numbers(kind, rows, depth, generator):
    normal = torch.randn(rows, depth, generator=generator)
    if kind == "integers":  # many ties
        return torch.randint(-2, 3, (rows, depth), generator=generator).float()
    if kind == "equal":  # nothing but ties
        return torch.ones(rows, depth)
    if kind == "cancelling":  # float32 sums that are all rounding
        normal[:, 1::2] = -normal[:, : 2 * (depth // 2) : 2] * (1 + 1e-7)
        return normal * 1e4
    if kind == "huge":  # float32 products overflow, and float64's are beyond float32
        return normal.clamp(-3, 3) * torch.tensor([1e18, 1e38, 1.0])[torch.randint(3, (rows, 1), generator=generator)]
    if kind == "tiny":  # products are subnormal
        return normal * 1e-22
    if kind == "ascending":  # every item is better than all before
        return torch.arange(rows)[:, None] / max(1, rows) + torch.zeros(rows, depth)
    return normal


def case(kind, queries, items, depth, seed):
    generator = torch.Generator().manual_seed(seed)
    x = numbers("normal" if kind == "ascending" else kind, queries, depth, generator)
    return (x.abs() if kind == "ascending" else x), numbers(kind, items, depth, generator), generator


def assert_equal(found, wanted):
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[0], wanted[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("queries", "items", "depth", "k"),
    [
        (1, 1, 1, 1),
        (2, 700, 7, 5),
        (3, 50, 16, 60),
        (5, 3000, 33, 10),
        (12, 60, 17, 9),
        (17, 400, 64, 100),
        (40, 1500, 8, 3),
    ],
)
def test_equals_the_twin(isa, kind, queries, items, depth, k):
    x, table, generator = case(kind, queries, items, depth, seed=items)
    assert_equal(topk_inner_product(x, table, k), twin(x, table, k))
    bias = torch.randn(items, generator=generator) * table.abs().mean()
    bias = bias.nan_to_num(posinf=1e38, neginf=-1e38)
    assert_equal(topk_inner_product(x, table, k, bias=bias), twin(x, table, k, bias))


@given(
    st.sampled_from(KINDS),
    st.integers(0, 40),
    st.integers(0, 300),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_filters(kind, queries, items, depth, k, filters, each, seed):
    x, table, generator = case(kind, queries, items, depth, seed)
    allowed = exclude = None
    if filters & 1:
        allowed = torch.rand(queries if each else 1, items, generator=generator) < 0.3
    if filters & 2 and items:
        rows = [torch.randint(items, (row % 5 * 3,), generator=generator) for row in range(queries)]
        exclude = Jagged.from_rows(rows)
    wanted = twin(x, table, k, None, allowed, *((exclude.values, exclude.offsets) if exclude else ()))
    if allowed is not None and not each:
        allowed = allowed[0]
    for _ in every_isa():
        assert_equal(topk_inner_product(x, table, k, allowed=allowed, exclude=exclude), wanted)


@pytest.mark.threads
@pytest.mark.parametrize(("queries", "items"), [(1, 20000), (200, 3000), (700, 900)])
def test_threads_change_no_bit(threads, queries, items):
    x, table, _ = case("integers", queries, items, 32, 3)
    found = []
    for count in (1, 2, 4):
        threads(count)
        found.append(topk_inner_product(x, table, 20))
    for other in found[1:]:
        assert_equal(other, found[0])
    assert_equal(found[0], twin(x, table, 20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_floats_and_strides(dtype):
    x, table, _ = case("normal", 6, 100, 24, 0)
    assert_equal(topk_inner_product(x.to(dtype), table.to(dtype), 5), twin(x.to(dtype), table.to(dtype), 5))
    assert_equal(topk_inner_product(x[:, ::3], table[::2, ::3], 5), twin(x[:, ::3], table[::2, ::3], 5))


def test_torch_knows_it():
    x, table, _ = case("normal", 3, 40, 8, 0)
    exclude = Jagged.from_rows([[1], [], [2, 3]])
    op = torch.ops.genrec_fast.topk_inner_product.default
    torch.library.opcheck(op, (x, table, 4, None, None, exclude.values, exclude.offsets))
    compiled = torch.compile(lambda a, b: topk_inner_product(a, b, 4), fullgraph=True, backend="eager")
    assert_equal(compiled(x, table), twin(x, table, 4))


def test_a_model_may_be_trained_around_it():
    x, table, _ = case("normal", 3, 40, 8, 0)
    scores, _ = topk_inner_product(x.requires_grad_(), table.requires_grad_(), 4)
    assert not scores.requires_grad


def test_nothing_to_find():
    assert topk_inner_product(torch.zeros(0, 3), torch.ones(5, 3), 2)[1].shape == (0, 2)
    scores, ids = topk_inner_product(torch.ones(2, 3), torch.ones(0, 3), 2)
    assert ids.tolist() == [[-1, -1]] * 2
    assert bool((scores == -torch.inf).all())
    _, ids = topk_inner_product(torch.ones(1, 3), torch.ones(5, 3), 2, allowed=torch.zeros(5, dtype=torch.bool))
    assert ids.tolist() == [[-1, -1]]


def test_messages_name_argument_rule_and_value():
    x, table = torch.ones(2, 3), torch.ones(5, 3)
    for value in (torch.nan, torch.inf, -torch.inf):
        wrong = table.clone()
        wrong[3, 1] = value
        with pytest.raises(InvalidValueError, match="table must be finite, got NaN or infinity in row 3"):
            topk_inner_product(x, wrong, 1)
        with pytest.raises(InvalidValueError, match="queries must be finite, got NaN or infinity in row 3"):
            topk_inner_product(wrong, table, 1)
        with pytest.raises(InvalidValueError, match="bias must be finite, got NaN or infinity in row 1"):
            topk_inner_product(x, table, 1, bias=torch.tensor([0, value, 0, 0, 0]))
    with pytest.raises(InvalidTypeError, match=r"queries must be float32, bfloat16 or float16 \[B, D\], got torch.f"):
        topk_inner_product(x.double(), table, 1)
    with pytest.raises(InvalidTypeError, match="table must be a tensor, got list"):
        topk_inner_product(x, [1.0], 1)
    with pytest.raises(InvalidValueError, match=r"with D at least 1, got \[2, 3\] and \[5, 2\]"):
        topk_inner_product(x, table[:, :2], 1)
    with pytest.raises(InvalidValueError, match="k must be at least 1, got 0"):
        topk_inner_product(x, table, 0)
    with pytest.raises(InvalidTypeError, match=r"k must be an int, got 1\.5"):
        topk_inner_product(x, table, 1.5)
    with pytest.raises(InvalidValueError, match=r"bias must be float32 \[5\], got torch.float32 \[4\]"):
        topk_inner_product(x, table, 1, bias=torch.ones(4))
    with pytest.raises(InvalidTypeError, match="allowed must be bool, got int64"):
        topk_inner_product(x, table, 1, allowed=torch.ones(5, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match=r"allowed must be \[5\] or \[2, 5\], got \[3, 5\]"):
        topk_inner_product(x, table, 1, allowed=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(InvalidTypeError, match="exclude must be int64 Jagged, got list"):
        topk_inner_product(x, table, 1, exclude=[[1], [2]])
    with pytest.raises(InvalidValueError, match="exclude must have one row for each of 2 queries, got 1"):
        topk_inner_product(x, table, 1, exclude=Jagged.from_rows([[1]]))
    with pytest.raises(InvalidValueError, match=r"exclude must hold item ids in \[0, 5\), got 5"):
        topk_inner_product(x, table, 1, exclude=Jagged.from_rows([[1], [5]]))


def test_the_example():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    scores, ids = gf.ops.topk_inner_product(torch.tensor([[1.0, 3.0]]), table, 2)
    assert (scores.tolist(), ids.tolist()) == ([[8.0, 3.0]], [[2, 1]])


# ---- kernels for cards


def assert_card_like_twin(card, x, table, k, *, bias=None, allowed=None, exclude=None):
    rows = None if allowed is None or allowed.dim() == 2 else allowed[None]
    lists = () if exclude is None else (exclude.values, exclude.offsets)
    wanted = twin(x, table, k, bias, allowed if rows is None else rows, *lists)
    if exclude is not None:
        exclude = Jagged(exclude.values.to(card), exclude.offsets.to(card))
    options = {name: part if part is None else part.to(card) for name, part in (("bias", bias), ("allowed", allowed))}
    scores, ids = topk_inner_product(x.to(card), table.to(card), k, exclude=exclude, **options)
    assert (scores.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert torch.equal(ids.cpu(), wanted[1])
    assert torch.equal(scores.cpu().view(torch.int32), wanted[0].view(torch.int32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("queries", "items", "depth", "k"),
    [
        (1, 1, 1, 1),
        (2, 700, 7, 5),
        (3, 50, 16, 60),
        (5, 2500, 33, 10),  # some groups are out
        (1, 5000, 8, 3),  # several blocks score for one query
        (130, 40, 17, 9),  # more queries than a tile
        (4, 300, 130, 20),  # items that shared memory does not hold as a whole
    ],
)
def test_a_card_gives_these_bits(card, kind, queries, items, depth, k):
    x, table, generator = case(kind, queries, items, depth, seed=items)
    assert_card_like_twin(card, x, table, k)
    bias = torch.randn(items, generator=generator) * table.abs().mean()
    assert_card_like_twin(card, x, table, k, bias=bias.nan_to_num(posinf=1e38, neginf=-1e38))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_card_reads_other_floats_and_strides(card, dtype):
    x, table, _ = case("normal", 6, 100, 24, 0)
    assert_card_like_twin(card, x.to(dtype), table.to(dtype), 5)
    assert_card_like_twin(card, x[:, ::3], table[::2, ::3], 5)


@given(
    kind=st.sampled_from(KINDS),
    queries=st.integers(0, 9),
    items=st.integers(0, 300),
    depth=st.integers(1, 40),
    k=st.integers(1, 70),
    filters=st.integers(0, 3),
    each=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_on_a_card(card, kind, queries, items, depth, k, filters, each, seed):
    x, table, generator = case(kind, queries, items, depth, seed)
    allowed = exclude = None
    if filters & 1:
        allowed = torch.rand(queries if each else 1, items, generator=generator) < 0.3
        allowed = allowed if each else allowed[0]
    if filters & 2 and items:
        exclude = Jagged.from_rows(
            [torch.randint(items, (row % 5 * 3,), generator=generator) for row in range(queries)]
        )
    assert_card_like_twin(card, x, table, k, allowed=allowed, exclude=exclude)


def test_a_card_and_the_best_items_excluded(card):
    """What a query may not find must not raise the bar for what it may."""
    x, table, _ = case("normal", 3, 2500, 16, 1)
    best = twin(x, table, 40)[1]
    exclude = Jagged.from_rows([best[0], best[1][:7], best[2][:0]])
    assert_card_like_twin(card, x, table, 10, exclude=exclude)
    allowed = torch.ones(3, 2500, dtype=torch.bool).scatter(1, best, False)
    assert_card_like_twin(card, x, table, 10, allowed=allowed, exclude=exclude)


def test_a_block_of_a_card_goes_on_with_other_items(card, monkeypatch):
    monkeypatch.setattr(_rq_levels, "MOST_BLOCKS", 1)
    for depth in (5, 130):
        x, table, _ = case("normal", 3, 300, depth, 1)
        assert_card_like_twin(card, x, table, 4)


def test_a_card_answers_many_queries_part_by_part(card, monkeypatch):
    monkeypatch.setattr(_cuda_topk, "_GROUP_BYTES", 1)
    x, table, generator = case("integers", 129, 50, 5, 1)
    exclude = Jagged.from_rows([torch.arange(row % 7) * 3 for row in range(129)])
    allowed = torch.rand(129, 50, generator=generator) < 0.7
    assert_card_like_twin(card, x, table, 4, allowed=allowed, exclude=exclude)
    assert_card_like_twin(card, x, table, 4, allowed=allowed[0])


@pytest.mark.parametrize("kind", ["near", "equal"])
def test_a_card_and_more_ties_than_it_keeps(card, kind):
    x, table, generator = case("equal", 2, 1500, 8, 1)
    if kind == "near":
        table = table + 1e-7 * torch.randn(1500, 8, generator=generator)
    assert_card_like_twin(card, x, table, 5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_card_marks_what_has_no_answer(card, value):
    x, table, _ = case("normal", 4, 90, 9, 1)
    wanted = twin(x, table, 3)

    def found(marked, x=x, table=table, **options):
        scores, ids = topk_inner_product(x.to(card), table.to(card), 3, **options)
        assert scores.cpu()[marked].isnan().all()
        assert ids.cpu()[marked].eq(-1).all()
        assert_equal([scores.cpu()[~marked], ids.cpu()[~marked]], [part[~marked] for part in wanted])

    third, every = torch.arange(4) == 2, torch.ones(4, dtype=torch.bool)
    wrong, bias = x.clone(), torch.zeros(90)
    wrong[2, 8] = value
    found(third, x=wrong)
    wrong = table.clone()
    wrong[70, 3] = value
    found(every, table=wrong)
    bias[80] = value
    found(every, bias=bias.to(card))
    for id_ in (90, -1):
        ids, offsets = torch.tensor([id_], device=card), torch.tensor([0, 0, 0, 1, 1], device=card)
        found(third, exclude=Jagged(ids, offsets))

"""jagged_pad, jagged_join, segment_sum: their twins and plain Python, rows of every length, gradients, bad offsets."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.reference import jagged_join, jagged_pad
from genrec_fast.ops.reference import segment_sum as sums
from shared.isas import every_isa

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 5, 17]), max_size=5)
DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def offsets_of(lengths, dtype=torch.int64):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=dtype)


def rows_of(values, offsets):
    return [values[a:b] for a, b in itertools.pairwise(offsets.tolist())]


@st.composite
def jagged(draw, dtypes=DTYPES):
    """Values (at times strided), offsets of either kind."""
    lengths = draw(LENGTHS, "lengths")
    shape = (sum(lengths), *draw(st.sampled_from([(), (1,), (3,), (16,), (40,), (2, 80), (0,)]), "shape"))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99), "seed"))
    values = torch.randn(shape, generator=generator) * 4
    values = values.to(draw(st.sampled_from(dtypes), "dtype"))
    if draw(st.booleans(), "strided"):
        values = values.repeat_interleave(2, 0)[::2]
    return values, offsets_of(lengths, draw(st.sampled_from([torch.int32, torch.int64]), "offsets"))


@given(jagged(), st.sampled_from([0, 1, 4, 17, 20]), st.sampled_from([0, 1, True]))
def test_to_padded_and_back(case, max_len, padding):
    values, offsets = case
    padded = ops.to_padded(values, offsets, max_len, padding)
    assert padded.dtype == values.dtype
    assert torch.equal(padded, jagged_pad.to_padded(values, offsets.long(), max_len, padding))
    for row, line in zip(rows_of(values, offsets), padded, strict=True):
        assert torch.equal(line[: len(row)], row[:max_len])
        assert (line[len(row) :] == padding).all()
    if all(len(row) <= max_len for row in rows_of(values, offsets)):
        assert torch.equal(ops.from_padded(padded, offsets), values)
        assert torch.equal(ops.from_padded(padded, offsets, total=len(values)), values)


@given(jagged(), LENGTHS, st.integers(0, 3))
def test_concat_and_split(case, lengths, dense):
    values, offsets = case
    num_rows = len(offsets) - 1
    lengths = (lengths + [1] * num_rows)[:num_rows]
    others = torch.ones(sum(lengths), *values.shape[1:]).to(values.dtype)
    fixed = torch.zeros(num_rows, dense, *values.shape[1:]).to(values.dtype)
    parts, starts = [values, others, fixed], [offsets, offsets_of(lengths), None]
    joined, joined_offsets = ops.jagged_concat(parts, starts)
    rows = rows_of(joined, joined_offsets)
    expected = zip(rows_of(values, offsets), rows_of(others, starts[1]), fixed, strict=True)
    for row, pieces in zip(rows, expected, strict=True):
        assert torch.equal(row, torch.cat(pieces))
    back = ops.jagged_split(joined, [*starts[:2], dense])
    assert all(torch.equal(a, b) for a, b in zip(back, parts, strict=True))
    flat = [offsets.long(), starts[1]]
    assert torch.equal(jagged_join.join(parts[:2], flat), ops.jagged_concat(parts[:2], flat)[0])
    for a, b in zip(jagged_join.part(jagged_join.join(parts[:2], flat), flat), parts[:2], strict=True):
        assert torch.equal(a, b)


@given(jagged(), st.integers(1, 4))
def test_interleave_and_back(case, count):
    values, offsets = case
    parts = [values, *(torch.zeros_like(values) for _ in range(count - 1))]
    joined, joined_offsets = ops.interleave(parts, offsets)
    assert joined_offsets.tolist() == [count * x for x in offsets.tolist()]
    assert joined.shape[0] == count * values.shape[0]
    assert all(torch.equal(joined[i::count], part) for i, part in enumerate(parts))
    assert all(torch.equal(a, b) for a, b in zip(ops.deinterleave(joined, count), parts, strict=True))


@given(jagged([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
def test_sums_are_the_twins_to_the_bit_on_every_set(case):
    values, offsets = case
    expected = sums.segment_sum(values, offsets.long())
    mean = torch.stack([r.to(expected.dtype).sum(0) / max(len(r), 1) for r in rows_of(values, offsets)] or [values[:0]])
    for _ in every_isa():
        assert torch.equal(ops.segment_sum(values, offsets), expected.to(values.dtype))
        found = ops.segment_mean(values, offsets)
        assert torch.allclose(found.double(), mean.double().reshape(found.shape), rtol=1e-2, atol=2e-2)


def everything(values, offsets):
    """Every differentiable function on float values [E, D]."""
    other = values * 2
    padded = ops.to_padded(values, offsets, 3, padding_value=7.0)
    lined = ops.from_padded(ops.to_padded(values, offsets, 5), offsets)
    joined, both = ops.jagged_concat([values, other], [offsets, offsets])
    first, second = ops.jagged_split(joined.sin(), [offsets, offsets])
    woven, _ = ops.interleave([values, other], offsets)
    return (
        padded.sin(), lined.sin(), ops.segment_sum(joined, both), first, second, woven.sin(),
        ops.segment_mean(values, offsets), ops.deinterleave(woven, 2)[1],
    )  # fmt: skip


@pytest.mark.parametrize("lengths", [[2, 0, 5], [0, 0], []])
def test_gradients(lengths):
    values = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    offsets = offsets_of(lengths)
    assert torch.autograd.gradcheck(everything, (values, offsets))
    if lengths:
        assert torch.autograd.gradgradcheck(lambda v: everything(v, offsets)[:4], (values,))
    single = values.detach().float().requires_grad_()
    sum(x.sum() for x in everything(single, offsets)).backward()
    sum(x.sum() for x in everything(values, offsets)).backward()
    assert torch.allclose(single.grad.double(), values.grad, atol=1e-5)


def test_the_ops_keep_torchs_rules():
    values, offsets = torch.randn(5, 3, requires_grad=True), offsets_of([2, 0, 3])
    op = torch.ops.genrec_fast
    for call, args in [
        (op.to_padded, (values, offsets, 2, 1.0)),
        (op.from_padded, (torch.randn(3, 4, 3, requires_grad=True), offsets, 5, True)),
        (op.segment_sum, (values, offsets, "segment_sum")),
        (op.jagged_spread, (torch.randn(3, 3, requires_grad=True), offsets, 5, "segment_sum")),
        (op.jagged_concat, ([values, values.detach()], [offsets, offsets])),
        (op.jagged_split, (torch.randn(10, 3, requires_grad=True), [offsets, offsets], [5, 5])),
        (op.checked_offsets, (offsets, "op", "offsets", 5)),
        (op.checked_ids, (offsets, "op", "ids", 6)),
    ]:
        torch.library.opcheck(call.default, args)


def test_all_compile_into_one_graph():
    values, offsets = torch.randn(5, 3), offsets_of([2, 0, 3])

    def run(values, offsets):
        padded = ops.to_padded(values, offsets, 4)
        back = ops.from_padded(padded, offsets, total=5)
        joined, both = ops.jagged_concat([back, padded], [offsets, None])
        parts = ops.jagged_split(joined, [offsets, 4], totals=[5, 12])
        woven, twice = ops.interleave([parts[0], values], offsets)
        return ops.segment_sum(joined, both), ops.segment_mean(woven, twice)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(values, offsets), run(values, offsets), strict=True):
        assert torch.equal(a, b)


@pytest.mark.threads
def test_threads_change_no_bit(threads):
    lengths = torch.randint(0, 400, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    offsets, values = offsets_of(lengths), torch.randn(sum(lengths), 48)

    def run():
        joined = ops.jagged_concat([values, values], [offsets, offsets])
        return ops.to_padded(values, offsets, 300), ops.segment_sum(values, offsets), *joined

    alone = run()
    threads(3)
    assert all(torch.equal(a, b) for a, b in zip(run(), alone, strict=True))


CALLS = {
    "to_padded": lambda o: ops.to_padded(torch.zeros(5, 2), o, 3),
    "from_padded": lambda o: ops.from_padded(torch.zeros(len(o) - 1, 9, 2), o, total=5),
    "segment_sum": lambda o: ops.segment_sum(torch.zeros(5, 2), o),
    "segment_mean": lambda o: ops.segment_mean(torch.zeros(5, 2), o),
    "interleave": lambda o: ops.interleave([torch.zeros(5, 2)], o),
    "jagged_concat": lambda o: ops.jagged_concat([torch.zeros(5, 2)], [o]),
    "jagged_split": lambda o: ops.jagged_split(torch.zeros(5, 2), [o], totals=[5]),
    "jagged_gather": lambda o: ops.jagged_gather(torch.zeros(5, 2), o, torch.tensor([0])),
    "jagged_dense_matmul": lambda o: ops.jagged_dense_matmul(torch.zeros(5, 2), o, torch.zeros(len(o) - 1, 2, 2)),
    "jagged_jagged_matmul": lambda o: ops.jagged_jagged_matmul(torch.zeros(5, 2), torch.zeros(5, 2), o),
}


@pytest.mark.parametrize("op", CALLS)
@settings(max_examples=20)
@given(numbers=st.lists(st.integers(-2, 7) | st.sampled_from([2**62, -(2**62)]), min_size=1, max_size=4))
def test_offsets_that_break_a_rule_are_an_error(op, numbers):
    offsets = torch.tensor(numbers)
    if numbers[0] == 0 and numbers[-1] == 5 and numbers == sorted(numbers):
        CALLS[op](offsets)
    else:
        with pytest.raises(InvalidValueError, match=rf"{op}: offsets.* must (run from 0 to 5|not decrease)"):
            CALLS[op](offsets)


@pytest.mark.parametrize("op", CALLS)
def test_offsets_of_another_kind_are_an_error(op):
    with pytest.raises(
        InvalidTypeError, match=rf"{op}: offsets.* must be int64 or int32 \[B \+ 1\], got torch.float32"
    ):
        CALLS[op](torch.tensor([0.0, 5.0]))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.to_padded([1], offsets_of([1]), 1), InvalidTypeError, "values must be a tensor, got list"),
        (lambda: ops.to_padded(torch.zeros(()), offsets_of([]), 1), InvalidValueError, r"values must be \[E, ...\]"),
        (lambda: ops.to_padded(torch.zeros(1), offsets_of([1]), -1), InvalidValueError, "max_len must be at least 0"),
        (
            lambda: ops.to_padded(torch.zeros(1, dtype=torch.uint8), offsets_of([1]), 2, -1),
            InvalidValueError,
            "padding_value must be a torch.uint8, got -1",
        ),
        (
            lambda: ops.from_padded(torch.zeros(1, 2), offsets_of([3])),
            InvalidValueError,
            "offsets must give no row more than dense's 2, got 3 in row 0",
        ),
        (
            lambda: ops.from_padded(torch.zeros(2, 2), offsets_of([1])),
            InvalidValueError,
            r"dense must be \[1, N, ...\]",
        ),
        (
            lambda: ops.from_padded(torch.zeros(1, 2), offsets_of([2]), total=1),
            InvalidValueError,
            "from 0 to 1, got 0 to 2",
        ),
        (lambda: ops.jagged_concat([], []), InvalidValueError, "for each of at least one part, got 0 for 0"),
        (lambda: ops.jagged_concat([torch.zeros(1, 1)], [None]), InvalidValueError, "at least one tensor of offsets"),
        (
            lambda: ops.jagged_concat([torch.zeros(1), torch.zeros(1).long()], [offsets_of([1])] * 2),
            InvalidTypeError,
            r"values_list\[1\] must be torch.float32 like part 0, got torch.int64",
        ),
        (
            lambda: ops.jagged_concat([torch.zeros(1), torch.zeros(1)], [offsets_of([1]), offsets_of([1, 0])]),
            InvalidValueError,
            r"offsets_list\[1\] must be \[2\] like the others, got \[3\]",
        ),
        (
            lambda: ops.jagged_split(torch.zeros(3), [offsets_of([1]), offsets_of([1])]),
            InvalidValueError,
            "values must hold all 2 elements of the parts, got 3",
        ),
        (lambda: ops.interleave([torch.zeros(1), torch.zeros(2)], offsets_of([1])), InvalidValueError, "like part 0"),
        (lambda: ops.deinterleave(torch.zeros(3), 2), InvalidValueError, "divide 3 elements, got 2"),
        (lambda: ops.segment_sum(torch.zeros(1).long(), offsets_of([1])), InvalidTypeError, "got torch.int64"),
    ],
)
def test_errors_name_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()

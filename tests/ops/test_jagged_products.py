"""jagged_products against their twins: products, look-ups, their gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.reference import jagged_products as twins
from shared.isas import every_isa


def offsets_of(lengths, dtype=torch.int64):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=dtype)


@st.composite
def products(draw):
    lengths = draw(st.lists(st.sampled_from([0, 1, 3, 12, 13, 300, 500]), max_size=4), "lengths")
    depth, columns = (draw(st.sampled_from([0, 1, 5, 16, 33, 64]), name) for name in ("D", "M"))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99), "seed"))
    values, dense, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((sum(lengths), depth), (len(lengths), depth, columns), (len(lengths), columns))
    )
    if draw(st.booleans(), "strided"):
        dense = dense.transpose(1, 2).contiguous().transpose(1, 2)
    return values, offsets_of(lengths, draw(st.sampled_from([torch.int32, torch.int64]))), dense, bias


@given(products(), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_products_are_the_twins(case, biased, dtype):
    values, offsets, dense, bias = (x.to(dtype) if x.is_floating_point() else x for x in case)
    bias = bias if biased else None
    tolerance = {"rtol": 1e-5, "atol": 2e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    double = (values.double(), dense.double(), offsets.long())
    expected = twins.dense_matmul(*double, None if bias is None else bias.double(), False)
    outer = twins.jagged_matmul(values.double(), expected, offsets.long())
    for _ in every_isa():
        found = ops.jagged_dense_matmul(values, offsets, dense, bias)
        assert found.dtype == dtype
        assert torch.allclose(found.double(), expected, **tolerance)
        if dtype == torch.float32:
            found = ops.jagged_jagged_matmul(values, expected.float(), offsets)
            assert torch.allclose(found.double(), outer, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("lengths", [[2, 0, 3], [0], []])
def test_gradients(lengths):
    shapes = ((sum(lengths), 2), (len(lengths), 2, 3), (len(lengths), 3))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    offsets = offsets_of(lengths)

    def run(values, dense, bias):
        out = ops.jagged_dense_matmul(values, offsets, dense, bias)
        return out, ops.jagged_jagged_matmul(values, out, offsets)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)
    single = [x.detach().float().requires_grad_() for x in inputs]
    for leaves in (inputs, single):
        sum(x.sin().sum() for x in run(*leaves)).backward()
    for a, b in zip(inputs, single, strict=True):
        assert torch.allclose(a.grad, b.grad.double(), rtol=1e-4, atol=1e-4)


@given(
    st.lists(st.integers(0, 6), max_size=40),
    st.sampled_from([(), (1,), (3,), (70,), (2, 16)]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.booleans(),
)
def test_embedding_and_its_two_gradients(ids, shape, dtype, int32):
    table = torch.randn(7, *shape).to(dtype).requires_grad_()
    ids = torch.tensor(ids, dtype=torch.int32 if int32 else torch.int64)
    out = ops.embedding(table, ids)
    assert torch.equal(out, table[ids.long()])
    grad = torch.randn(out.shape).to(dtype)
    (dense,) = torch.autograd.grad(out, table, grad)
    (sparse,) = torch.autograd.grad(ops.embedding(table, ids, sparse_grad=True), table, grad)
    assert torch.equal(dense, twins.embedding_gradient(grad, ids.long(), 7).to(dtype))
    assert sparse.is_sparse
    assert sparse.is_coalesced()
    assert sparse.indices()[0].tolist() == sorted(set(ids.tolist()))
    assert torch.equal(sparse.to_dense(), dense)


def test_many_ids_in_a_large_table():
    ids = torch.randint(0, 5_000_000, (3000,), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([ids, ids.flip(0)])
    table = torch.zeros(5_000_000, 1, requires_grad=True)
    (found,) = torch.autograd.grad(ops.embedding(table, ids, sparse_grad=True).sum(), table)
    unique, counts = ids.unique(return_counts=True)
    assert torch.equal(found.indices()[0], unique)
    assert torch.equal(found.values()[:, 0], counts.float())


def test_embedding_serves_any_shape_and_sparse_adam():
    table = torch.nn.Parameter(torch.randn(5, 3))
    optimizer = torch.optim.SparseAdam([table], lr=0.1)
    before = table.detach().clone()
    ops.embedding(table, torch.tensor([[1, 3], [3, 3]]), sparse_grad=True).sum().backward()
    optimizer.step()
    changed = (table != before).any(1)
    assert changed.tolist() == [False, True, False, True, False]


@given(st.lists(st.sampled_from([0, 1, 4]), min_size=1, max_size=4), st.data())
def test_gather_takes_whole_rows(lengths, data):
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=5))
    offsets, values = offsets_of(lengths), torch.randn(sum(lengths), 2, requires_grad=True)
    found, starts = ops.jagged_gather(values, offsets, torch.tensor(rows, dtype=torch.int64))
    pieces = [values[offsets[r] : offsets[r + 1]] for r in rows]
    assert starts.tolist() == offsets_of([len(x) for x in pieces]).tolist()
    assert torch.equal(found, torch.cat([values[:0], *pieces]))
    (grad,) = torch.autograd.grad(found.sum(), values)
    counts = [rows.count(r) for r, n in enumerate(lengths) for _ in range(n)]
    assert grad[:, 0].tolist() == counts


def test_the_ops_keep_torchs_rules():
    values, offsets = torch.randn(5, 3, requires_grad=True), offsets_of([2, 0, 3])
    dense, bias = torch.randn(3, 3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    op = torch.ops.genrec_fast
    ids = torch.tensor([1, 0, 1])
    for call, args in [
        (op.jagged_dense_matmul, (values, dense, offsets, bias, False)),
        (op.jagged_dense_matmul, (values, dense.detach().mT.contiguous(), offsets, None, True)),
        (op.jagged_jagged_matmul, (values, torch.randn(5, 2, requires_grad=True), offsets)),
        (op.embedding, (values, ids, False)),
        (op.embedding_gradient, (torch.randn(3, 2, requires_grad=True), ids, 4)),
        (op.embedding_rows, (torch.randn(3, 2), ids, 4)),
    ]:
        torch.library.opcheck(call.default, args)


def test_all_compile_into_one_graph():
    values, offsets, dense = torch.randn(5, 3), offsets_of([2, 0, 3]), torch.randn(3, 3, 4)

    def run(values, offsets, dense):
        product = ops.jagged_dense_matmul(values, offsets, dense)
        rows, starts = ops.jagged_gather(product, offsets, torch.tensor([2, 2]), total=6)
        return ops.jagged_jagged_matmul(values, product, offsets), ops.embedding(rows, starts[:2])

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(values, offsets, dense), run(values, offsets, dense), strict=True):
        assert torch.equal(a, b)


@pytest.mark.threads
def test_threads_change_no_bit(threads):
    lengths = [0, 3000, 1, 40, 900]
    offsets, dense = offsets_of(lengths), torch.randn(5, 64, 48)
    values, ids = torch.randn(sum(lengths), 64), torch.randint(0, 900, (sum(lengths),))
    table = torch.randn(900, 64, requires_grad=True)

    def run():
        out = ops.jagged_dense_matmul(values, offsets, dense)
        (grad,) = torch.autograd.grad(ops.embedding(table, ids), table, values)
        return out, ops.jagged_jagged_matmul(values, out, offsets), grad

    alone = run()
    threads(3)
    assert all(torch.equal(a, b) for a, b in zip(run(), alone, strict=True))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: ops.jagged_dense_matmul(torch.zeros(2, 3), offsets_of([2]), torch.zeros(1, 2, 3)),
            InvalidValueError,
            r"jagged_dense_matmul: dense must be \[1, 3, M\], got \[1, 2, 3\]",
        ),
        (
            lambda: ops.jagged_dense_matmul(torch.zeros(2, 3), offsets_of([2]), torch.zeros(1, 3, 3).double()),
            InvalidTypeError,
            r"dense must be torch.float32 like the rest, got torch.float64",
        ),
        (
            lambda: ops.jagged_dense_matmul(
                torch.zeros(2, 3), offsets_of([2]), torch.zeros(1, 3, 3), torch.zeros(1, 2)
            ),
            InvalidValueError,
            r"bias must be \[1, 3\], got \[1, 2\]",
        ),
        (
            lambda: ops.jagged_jagged_matmul(torch.zeros(2, 3), torch.zeros(3, 3), offsets_of([2])),
            InvalidValueError,
            r"jagged_jagged_matmul: b must be \[2, M\] like a, got \[3, 3\]",
        ),
        (
            lambda: ops.embedding(torch.zeros(4, 2), torch.tensor([0, 4])),
            InvalidValueError,
            r"embedding: ids must be in \[0, 4\), got 4 at place 1",
        ),
        (
            lambda: ops.embedding(torch.zeros(0, 2), torch.tensor([-1])),
            InvalidValueError,
            r"embedding: ids must be in \[0, 0\), got -1 at place 0",
        ),
        (lambda: ops.embedding(torch.zeros(4), torch.zeros(1)), InvalidTypeError, "ids must be int64 or int32"),
        (
            lambda: ops.jagged_gather(torch.zeros(2), offsets_of([2]), torch.tensor([1])),
            InvalidValueError,
            r"jagged_gather: rows must be in \[0, 1\), got 1",
        ),
        (
            lambda: ops.jagged_gather(torch.zeros(2), offsets_of([2]), torch.tensor([0]), total=3),
            InvalidValueError,
            "jagged_gather: offsets must run from 0 to 3, got 0 to 2",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()

"""Jagged rows on a card: the CPU's bits, its gradients, and what broken offsets give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator import build as emulator
from genrec_fast import ops
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops import _cuda

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 5, 17, 70]), max_size=5)
WIDTHS = st.sampled_from([(), (1,), (3,), (16,), (2, 33), (0,), (150,)])


@pytest.fixture(params=["cuda-emulated", *(["cuda"] if torch.cuda.is_available() else [])])
def on_card(request):
    """Runs a call with kernels for cards: ``on_card(function, *tensors)``, results on the CPU."""

    def run(function, *tensors):
        if request.param == "cuda":
            found = function(*(x.cuda() for x in tensors))
            return [x.cpu() for x in found] if isinstance(found, list | tuple) else found.cpu()
        _cuda.use_emulator(emulator.run)
        try:
            return function(*tensors)
        finally:
            _cuda.use_emulator(None)

    return run


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def same(found, expected):
    pairs = zip(found, expected, strict=True) if isinstance(expected, list | tuple) else [(found, expected)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(LENGTHS, WIDTHS, st.sampled_from(DTYPES), st.sampled_from([0, 1, 4, 20]), st.integers(0, 99))
def test_moved_rows_are_those_of_the_cpu(on_card, lengths, width, dtype, max_len, seed):
    offsets = offsets_of(lengths)
    others = offsets_of(lengths[::-1])
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(sum(lengths), *width, generator=generator) * 4).to(dtype)
    dense = (torch.randn(len(lengths), 2, *width, generator=generator) * 4).to(dtype)
    longest = max([0, *lengths])

    def all_of(values, offsets, others, dense):
        padded = ops.to_padded(values, offsets, max_len, 1)
        back = ops.from_padded(ops.to_padded(values, offsets, longest), offsets)
        joined, starts = ops.jagged_concat([values, dense, values], [offsets, None, others])
        parts = ops.jagged_split(joined, [offsets, 2, others])
        return [padded, back, joined, starts, *parts]

    same(on_card(all_of, values, offsets, others, dense), all_of(values, offsets, others, dense))


@FEW
@given(LENGTHS, WIDTHS, st.sampled_from(DTYPES[:3]), st.integers(0, 99))
def test_sums_look_ups_and_their_gradients_have_the_cpus_bits(on_card, lengths, width, dtype, seed):
    offsets = offsets_of(lengths)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), *width, generator=generator).to(dtype)
    table = torch.randn(7, *width, generator=generator).to(dtype)
    ids = torch.randint(0, 7, (3, sum(lengths)), generator=generator)
    rows = torch.randint(0, max(len(lengths), 1), (4 if lengths else 0,), generator=generator)

    def all_of(values, offsets, table, ids, rows):
        leaves = [values.detach().requires_grad_(), table.detach().requires_grad_(), table.detach().requires_grad_()]
        found = [ops.segment_sum(leaves[0], offsets), ops.segment_mean(leaves[0], offsets)]
        found += [ops.embedding(leaves[1], ids), ops.embedding(leaves[2], ids, sparse_grad=True)]
        found += ops.jagged_gather(leaves[0], offsets, rows)
        loss = sum((x.float() * torch.arange(x.numel(), device=x.device).view(x.shape)).sum() for x in found)
        grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
        return [*(x.detach() for x in found), *grads[:2], grads[2].to_dense()]

    same(on_card(all_of, values, offsets, table, ids, rows), all_of(values, offsets, table, ids, rows))


@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (3, 70), (64, 64), (130, 20)])
def test_products_and_their_gradients_are_near_those_in_float64(on_card, depth, columns):
    offsets = offsets_of([70, 0, 3, 64])
    values, dense = torch.randn(137, depth), torch.randn(4, depth, columns)
    bias, weights = torch.randn(4, columns), torch.randn(137, columns)

    def all_of(values, dense, bias, weights, offsets):
        leaves = [x.detach().requires_grad_() for x in (values, dense, bias)]
        out = ops.jagged_dense_matmul(leaves[0], offsets, leaves[1], leaves[2])
        grads = torch.autograd.grad((out * weights).sum(), leaves)
        return [out.detach(), *grads, ops.jagged_jagged_matmul(values, weights, offsets)]

    expected = all_of(*(x.double() for x in (values, dense, bias, weights)), offsets)
    for ours, theirs in zip(on_card(all_of, values, dense, bias, weights, offsets), expected, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [1, 2, 3, 5], [0, 2, 3, 6], [0, -1, 3, 5], [0, 1 << 40, 4, 5]])
def test_broken_offsets_give_nothing_that_looks_like_an_answer(on_card, offsets):
    values, dense = torch.randn(5, 4), torch.randn(3, 4, 2)

    def all_of(values, dense, offsets):
        return [
            ops.to_padded(values, offsets, 4),
            ops.from_padded(torch.zeros(3, 9, 4, device=values.device), offsets, total=5),
            ops.segment_sum(values, offsets),
            ops.jagged_dense_matmul(values, offsets, dense),
            ops.jagged_jagged_matmul(values, values, offsets),
            ops.jagged_concat([values, values], [torch.tensor([0, 1, 1, 5], device=values.device), offsets])[0],
            *ops.jagged_split(values[:5], [offsets], totals=[5]),
            ops.jagged_gather(values, offsets, torch.tensor([0, 2], device=values.device), total=4)[0],
        ]

    found = on_card(all_of, values, dense, torch.tensor(offsets))
    assert [bool(x.isnan().all()) for x in found] == [True] * len(found)
    assert ops.interleave([values], torch.tensor([0, 1, 4, 5]))[1].tolist() == [0, 1, 4, 5]
    assert (on_card(lambda v, o: ops.interleave([v], o)[1], values, torch.tensor(offsets)) < 0).all()


def test_a_row_that_does_not_fit_and_an_id_outside_are_nan(on_card):
    offsets = torch.tensor([0, 3, 4])
    found = on_card(ops.from_padded, torch.zeros(2, 2, 3), offsets)
    assert found.isnan().all(1).tolist() == [False, False, True, False]
    table = torch.randn(4, 3)
    found = on_card(ops.embedding, table, torch.tensor([3, 4, -1, 0]))
    assert found.isnan().all(1).tolist() == [False, True, True, False]
    assert on_card(ops.embedding, torch.arange(4), torch.tensor([3, 4])).tolist() == [3, -1]
    with pytest.raises(InvalidValueError, match="ids must be in"):
        ops.embedding(table, torch.tensor([4]))


@pytest.mark.parametrize(("rows", "total"), [([0, 3], 2), ([-1], 2), ([0, 1], 5)])
def test_rows_that_are_not_there_are_nan(on_card, rows, total):
    values, offsets = torch.randn(5, 4), torch.tensor([0, 2, 3, 5])
    found, ends = on_card(lambda v, o, r: ops.jagged_gather(v, o, r, total=total), values, offsets, torch.tensor(rows))
    assert found.isnan().all()
    assert (ends == -1).all()
    with pytest.raises(InvalidValueError, match=r"rows must be in \[0, 0\), got 1 of them"):
        on_card(ops.jagged_gather, values[:0], offsets[:1], torch.tensor([0]))

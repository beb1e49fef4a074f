"""gemm in int8: sums of whole numbers, exact and equal to the bit on every instruction set and in the twin."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops.gemm import gemm, gemm_pack
from genrec_fast.ops.reference.gemm import gemm as twin
from genrec_fast.ops.reference.gemm import gemm_pack as pack_twin
from genrec_fast.ops.reference.gemm import rounded
from shared.isas import every_isa

HEADER = 64  # bytes before the panels


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(low, high, *shape, seed=0):
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def every_set(a, b, start=None):
    """The product on every set; equal to the bit among them and to the twin."""
    wanted = twin(a, pack_twin(b, "int8"), len(b), start, "int8")
    for name in every_isa():
        found = gemm(a, gemm_pack(b, precision="int8"), len(b), start=start, precision="int8")
        assert torch.equal(found.nan_to_num(3e38), wanted.nan_to_num(3e38)), name
    return wanted


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25])  # every mix of full tiles and tails
@pytest.mark.parametrize("columns", [1, 16, 31, 33, 130])
def test_every_tail_of_rows_and_columns(rows, columns):
    for depth in (1, 3, 4, 17, 64):
        a, b, start = normal(rows, depth), normal(columns, depth, seed=1), normal(columns, seed=2)
        every_set(a, b)
        every_set(a, b, start)


@given(
    st.integers(0, 40),
    st.integers(1, 150),
    st.integers(1, 200),
    st.sampled_from([(-127, 127), (-1, 1), (-127, 0), (0, 127)]),
    st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_whole_numbers_come_out_exactly(rows, columns, depth, limits, seed):
    a, b = whole(*limits, rows, depth, seed=seed), whole(*limits, columns, depth, seed=seed + 1)
    a[:, 0], b[:, 0] = 127, -127  # every scale is 1
    found = every_set(a, b)
    assert torch.equal(found.double(), a.double() @ b.double().T)


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 70),
    st.floats(2.0**-60, 2.0**60),
    st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_stays_within_half_a_step_of_each_factor(rows, columns, depth, size, seed):
    a, b = normal(rows, depth, seed=seed) * size, normal(columns, depth, seed=seed + 1)
    step_a, step_b = a.abs().amax(1, keepdim=True).double() / 127, b.abs().amax(1).double() / 127
    error = every_set(a, b).double() - a.double() @ b.double().T
    most = step_a / 2 * b.double().abs().sum(1) + a.double().abs().sum(1, keepdim=True) * step_b / 2
    assert bool((error.abs() <= (most + depth * step_a * step_b / 4) * (1 + 1e-4)).all())


@pytest.mark.parametrize("depth", [64, 4099, 65536])
def test_largest_sums_do_not_overflow(depth):
    a, b = torch.ones(3, depth), torch.ones(2, depth)
    b[1] = -1
    assert torch.equal(every_set(127 * a, 127 * b), (127.0 * 127 * depth * b[:, :1]).T.expand(3, 2))


@pytest.mark.parametrize("depth", [4, 65536])
def test_weights_of_minus_128(depth):
    # Rounding never makes one, a block of another's making may hold them; bytes of 255 beside them are the worst case.
    a = torch.full((7, depth), 127.0)
    a[1] = -127.0
    for name in every_isa():
        block = gemm_pack(torch.full((5, depth), 127.0), precision="int8")
        width = (len(block) - HEADER) // (depth + 8)  # columns of all panels
        weights = block[HEADER : HEADER + width * depth].view(torch.int8)
        weights[weights == 127] = -128
        block[-4 * width :].view(torch.int32)[:5] = -128 * depth
        found = gemm(a, block, 5, precision="int8")
        assert torch.equal(found, (a[:, :1] * -128.0 * depth).expand(7, 5)), name


def test_a_row_is_rounded_to_nearest_even():
    a = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, 0.49999997]])
    numbers = every_set(a, torch.eye(10))[0] / (torch.tensor(1.0) / 127 * 127)
    assert numbers.round().tolist() == [127, 0, 2, 2, 0, -2, -2, 126, -126, 0]


def test_rows_of_zeros_and_of_hardly_anything_are_zeros():
    a, b = normal(5, 20), normal(40, 20, seed=1)
    a[1], a[2], b[3] = 0, 1e-38, 0
    found = every_set(a, b)
    assert not found[1].any() and not found[2].any() and not found[:, 3].any()
    assert bool(found[0, :3].all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_gives_nan_and_nothing_else_does(bad):
    a, b = normal(15, 37), normal(35, 37, seed=1)
    a[3, 36], a[14, 0], b[34, 20] = bad, bad, bad
    wanted = torch.zeros(15, 35, dtype=torch.bool)
    wanted[3] = wanted[14] = wanted[:, 34] = True
    assert torch.equal(every_set(a, b, torch.zeros(35)).isnan(), wanted)


def test_the_largest_floats_are_numbers():
    a = torch.tensor([[3.4e38, -3.4e38, 0.0]])
    assert torch.allclose(every_set(a, torch.eye(3)), a)


def test_other_dtypes_and_strides():
    a, b = normal(20, 33), normal(64, 33, seed=1)
    for given_a, given_b in ((a.bfloat16(), b.bfloat16()), (a.half(), b), (a.T.contiguous().T, b.T.contiguous().T)):
        packed = gemm_pack(given_b, precision="int8")
        wanted = twin(given_a, pack_twin(given_b.float(), "int8"), 64, None, "int8")
        assert torch.equal(gemm(given_a, packed, 64, precision="int8"), wanted)


@pytest.mark.threads
def test_threads_change_nothing(threads):
    for rows, columns, depth in ((500, 300, 100), (1, 9000, 512), (3, 40, 5)):
        a, b = normal(rows, depth), normal(columns, depth, seed=1)
        threads(1)
        wanted = gemm(a, gemm_pack(b, precision="int8"), columns, precision="int8")
        for count in (2, 3):
            threads(count)
            assert torch.equal(gemm(a, gemm_pack(b, precision="int8"), columns, precision="int8"), wanted)


def test_bad_arguments_are_named():
    with pytest.raises(InvalidValueError, match="gemm_pack: D must be at most 65536 in int8, got 65537"):
        gemm_pack(torch.ones(1, 65537), precision="int8")
    with pytest.raises(InvalidValueError, match="gemm: D must be at most 65536 in int8, got 65537"):
        gemm(torch.ones(1, 65537), torch.zeros(9, dtype=torch.uint8), 1, precision="int8")
    packed = gemm_pack(normal(20, 8), precision="int8")
    with pytest.raises(InvalidValueError, match="packed must be a matrix of 20 columns and depth 8 packed for"):
        gemm(normal(3, 8), packed, 20)
    with pytest.raises(InvalidValueError, match="packed must be a matrix of 20 columns and depth 8 packed for"):
        gemm(normal(3, 8), packed[:-1], 20, precision="int8")
    with pytest.raises(InvalidValueError, match="got 20 columns of depth 8"):
        gemm(normal(3, 7), packed, 20, precision="int8")  # 7 and 8 are padded alike: the header tells them apart


def test_are_torch_ops():
    b = normal(9, 5)
    packed = gemm_pack(b, precision="int8")
    torch.library.opcheck(torch.ops.genrec_fast.gemm_pack.default, (b, "int8"))
    torch.library.opcheck(torch.ops.genrec_fast.gemm.default, (normal(4, 5), packed, 9, None, "int8"))


def test_twin_rounds_as_documented():
    numbers, scales = rounded(torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert numbers.tolist() == [[64, -127, 0], [0, 0, 0]]
    assert torch.equal(scales, torch.tensor([2.0, 0.0]) / 127)

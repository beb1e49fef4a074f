"""gemm and gemm_pack: every tile of the micro-kernel, on every instruction set, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.ops._registry import core
from genrec_fast.ops.gemm import gemm, gemm_pack
from genrec_fast.ops.reference.gemm import gemm as twin
from genrec_fast.ops.reference.gemm import gemm_pack as pack_twin
from shared.isas import every_isa


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close_to_exact(out, a, b, start=None):
    exact = a.double() @ b.double().T + (0 if start is None else start.double())
    size = a.double().abs() @ b.double().abs().T + (0 if start is None else start.double().abs())
    assert bool(((out.double() - exact).abs() <= (2 * a.shape[1] + 16) * 2.0**-24 * size + 1e-30).all())


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25])  # every mix of full tiles and tails
@pytest.mark.parametrize("columns", [1, 16, 31, 33, 130])
def test_every_tail_of_rows_and_columns(isa, rows, columns):
    for depth in (1, 7, 64):
        a, b, start = normal(rows, depth), normal(columns, depth, seed=1), normal(columns, seed=2)
        packed = gemm_pack(b)
        assert_close_to_exact(gemm(a, packed, columns), a, b)
        assert_close_to_exact(gemm(a, packed, columns, start=start), a, b, start)
        assert torch.allclose(
            gemm(a, packed, columns, start=start),
            twin(a, pack_twin(b, "float32"), columns, start, "float32"),
            atol=1e-4,
        )


@given(st.integers(0, 40), st.integers(1, 150), st.integers(1, 90), st.integers(0, 2**31))
@settings(max_examples=30)
def test_small_integers_come_out_exactly(rows, columns, depth, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-9, 10, (rows, depth), generator=generator).float()
    b = torch.randint(-9, 10, (columns, depth), generator=generator).float()
    for name in every_isa():
        assert torch.equal(gemm(a, gemm_pack(b), columns), a @ b.T)
        if name == "avx512_bf16":  # integers up to 256 are bfloat16 numbers
            packed = gemm_pack(b, precision="bfloat16")
            assert torch.equal(gemm(a, packed, columns, precision="bfloat16"), a @ b.T)


def test_bfloat16_rounds_both_sides_and_sums_in_float32(isa):
    a, b, start = normal(30, 51), normal(70, 51, seed=1), normal(70, seed=2)
    if isa != "avx512_bf16":
        with pytest.raises(UnsupportedError, match="gemm: bfloat16 needs an instruction set that multiplies it"):
            gemm_pack(b, precision="bfloat16")
        return
    out = gemm(a, gemm_pack(b, precision="bfloat16"), 70, start=start, precision="bfloat16")
    assert_close_to_exact(out, a.bfloat16().float(), b.bfloat16().float(), start)


@pytest.mark.threads
def test_threads_change_nothing(threads):
    for rows, columns, depth in ((500, 300, 100), (1, 9000, 512), (3, 40, 5)):
        a, b = normal(rows, depth), normal(columns, depth, seed=1)
        threads(1)
        wanted = gemm(a, gemm_pack(b), columns)
        for count in (2, 3, 4):
            threads(count)
            assert torch.equal(gemm(a, gemm_pack(b), columns), wanted)


def test_a_matrix_packed_for_other_panels_is_refused():
    if "avx512" not in core.usable_isas():
        pytest.skip("one width of panels on this machine")
    core.select_isa("avx2")
    packed = gemm_pack(normal(64, 8))
    core.select_isa("avx512")
    with pytest.raises(InvalidValueError, match="packed for avx512, got 64 columns of depth 8 in panels of 16"):
        gemm(normal(3, 8), packed, 64)


def test_bad_arguments_are_named():
    a, packed = normal(3, 8), gemm_pack(normal(20, 8))
    for arguments, options, error, text in (
        ((a.long(), packed, 20), {}, InvalidTypeError, r"gemm: a must be float32, .* \[M, D\], got torch.int64"),
        ((a[0], packed, 20), {}, InvalidValueError, r"gemm: a must be \[M, D\], got \[8\]"),
        ((a, packed.float(), 20), {}, InvalidTypeError, r"packed must be uint8 \[bytes\], got torch.float32"),
        ((a, packed[:-1], 20), {}, InvalidValueError, r"packed must be a matrix of 20 columns and depth 8 .* got"),
        ((a, torch.zeros_like(packed), 20), {}, InvalidValueError, "got 0 columns of depth 0 in panels of 0"),
        ((a[:, :7], packed, 20), {}, InvalidValueError, "packed must be a matrix of 20 columns and depth 7"),
        ((a, packed, 19), {}, InvalidValueError, "packed must be a matrix of 19 columns and depth 8"),
        ((a, packed, 0), {}, InvalidValueError, "num_columns and D must be at least 1, got 0 columns"),
        ((a, packed, 2.0), {}, InvalidTypeError, "num_columns must be an int, got 2.0"),
        ((a, packed, 20), {"start": normal(3)}, InvalidValueError, r"start must be float32 \[20\], got .* \[3\]"),
        (
            (a, packed, 20),
            {"precision": "int4"},
            InvalidValueError,
            "precision must be 'float32', 'bfloat16' or 'int8', got 'int4'",
        ),
    ):
        with pytest.raises(error, match=text):
            gemm(*arguments, **options)
    with pytest.raises(
        InvalidValueError, match=r"gemm_pack: b must be \[N, D\] with at least one of each, got \[0, 8\]"
    ):
        gemm_pack(normal(0, 8))
    with pytest.raises(InvalidValueError, match=r"gemm_pack: precision must be 'float32', .* got 'no'"):
        gemm_pack(normal(4, 8), precision="no")


def test_are_torch_ops():
    b = normal(9, 5)
    packed = gemm_pack(b)
    torch.library.opcheck(torch.ops.genrec_fast.gemm_pack.default, (b, "float32"))
    torch.library.opcheck(torch.ops.genrec_fast.gemm.default, (normal(4, 5), packed, 9, None, "float32"))
    compiled = torch.compile(lambda a: gemm(a, packed, 9), fullgraph=True, backend="eager")
    assert torch.equal(compiled(normal(4, 5)), gemm(normal(4, 5), packed, 9))

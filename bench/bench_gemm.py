"""The micro-kernel by itself against torch's sgemm (and bfloat16 against bfloat16), at the shapes it was asked for.

Results are equal within rounding, asserted before both sides are timed in turn in one process. In int8 both sides round
the rows inside of their time; the rival is torch's dynamic quantized linear on weights packed before.
`pytest bench/bench_gemm.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genrec_fast.ops._registry import core
from genrec_fast.ops.gemm import gemm, gemm_pack
from genrec_fast.ops.reference.gemm import gemm as twin
from genrec_fast.ops.reference.gemm import gemm_pack as pack_twin
from timing import gemm_flops, in_turn

SHAPES = {  # rows, columns, depth
    "512x256x768": (512, 256, 768),
    "512x1024x64": (512, 1024, 64),
    "50x1152x128": (50, 1152, 128),
    "50x1024x128": (50, 1024, 128),
    "50x128x1024": (50, 128, 1024),
    "4x1024x256": (4, 1024, 256),
    "1x1024x256": (1, 1024, 256),
    "61x100x33": (61, 100, 33),
}


def quantized_linear(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """torch's: one scale and offset for all rows, one scale per column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its quantized dtypes deprecated, and has no other such product
        zeros = torch.zeros(len(b), dtype=torch.int64)
        weight = torch.quantize_per_channel(b, b.abs().amax(1) / 127, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, None)
    return lambda: torch.ops.quantized.linear_dynamic(a, packed, False)


@pytest.mark.parametrize("name", SHAPES)
def test_gemm_int8(benchmark, name):
    if torch.backends.quantized.engine not in ("x86", "fbgemm", "onednn"):
        pytest.skip("this torch has no quantized linear")
    rows, columns, depth = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, depth, generator=generator), torch.randn(columns, depth, generator=generator)
    packed, rival = gemm_pack(b, precision="int8"), quantized_linear(a, b)

    def ours() -> Tensor:
        return gemm(a, packed, columns, precision="int8")

    assert torch.equal(ours(), twin(a, pack_twin(b, "int8"), columns, None, "int8"))
    exact = a @ b.T
    # Without VNNI torch's products saturate in 16 bits: its own error is then several times ours.
    allowed = 0.02 if getattr(torch.cpu, "_is_vnni_supported", bool)() else 0.1
    for found, error in ((ours(), 0.02), (rival(), allowed)):
        assert (found - exact).norm() < error * exact.norm()
    mine, theirs = in_turn(ours, rival)
    benchmark.extra_info.update(
        workload=f"gemm {name}",
        level="int8",
        ours_us=mine,
        rival_us=theirs,
        rival="torch linear_dynamic",
        limit=2.0 * rows * columns * depth / (mine * 1e-6) / gemm_flops(),
    )
    benchmark.pedantic(ours, rounds=3)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gemm(benchmark, name, precision):
    if precision == "bfloat16" and core.active_isa() != "avx512_bf16":
        pytest.skip("this instruction set does not multiply bfloat16")
    rows, columns, depth = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, precision)
    a = torch.randn(rows, depth, generator=generator).to(dtype)
    b = torch.randn(columns, depth, generator=generator)
    packed, weight = gemm_pack(b, precision=precision), b.to(dtype).T

    def ours() -> Tensor:
        return gemm(a, packed, columns, precision=precision)

    assert torch.allclose(ours(), a.float() @ b.to(dtype).float().T, rtol=1e-4, atol=1e-4 * depth**0.5)
    mine, theirs = in_turn(ours, lambda: a @ weight)
    benchmark.extra_info.update(
        workload=f"gemm {name}",
        level=precision,
        ours_us=mine,
        rival_us=theirs,
        rival=f"torch {precision}",
        limit=2.0 * rows * columns * depth / (mine * 1e-6) / gemm_flops(),
    )
    benchmark.pedantic(ours, rounds=3)

"""The micro-kernel by itself against torch's sgemm (and bfloat16 against bfloat16), at the shapes it was asked for.

Results are equal within rounding, asserted before both sides are timed in turn in one process.
`pytest bench/bench_gemm.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench_trie_step import gemm_flops, in_turn
from genrec_fast.ops._registry import core
from genrec_fast.ops.gemm import gemm, gemm_pack

SHAPES = {  # rows, columns, depth
    "512x256x768": (512, 256, 768),
    "512x1024x64": (512, 1024, 64),
    "50x1152x128": (50, 1152, 128),
    "4x1024x256": (4, 1024, 256),
    "1x1024x256": (1, 1024, 256),
    "61x100x33": (61, 100, 33),
}


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

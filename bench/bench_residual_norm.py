"""residual_norm against torch's sum and norm, one after the other.

On the CPU `residual_norm` is plain torch, too: the table shows what its one form costs there, and nothing about a
card. Both sides agree within rounding, asserted before they are timed in turn in one process; the table shows
minima.
`pytest bench/bench_residual_norm.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.ops import residual_norm
from timing import in_turn


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_level(benchmark, kind):
    generator = torch.Generator().manual_seed(0)
    x, added = (torch.randn(800, 384, generator=generator) for _ in range(2))
    weight, norm = torch.rand(384, generator=generator), {"rms": functional.rms_norm, "layer": functional.layer_norm}

    def ours() -> Tensor:
        return residual_norm(x, weight, added=added, kind=kind)[0]

    def other() -> Tensor:
        return norm[kind](x + added, (384,), weight, eps=1e-6)

    torch.testing.assert_close(ours(), other(), rtol=1e-4, atol=1e-5)
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{kind}, 800 x 384", level="one", ours_us=mine, rival_us=theirs, rival="torch, sum then norm"
    )
    benchmark.pedantic(ours, rounds=1)

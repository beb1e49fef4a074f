"""rotary against what a network makes of torch for every call: angles, cosines and sines anew (`nn.rotary`).

On the CPU `rotary` is plain torch, too: the table shows what keeping the angles saves there, and nothing about a card.
Both sides agree within rounding, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_rotary.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.nn.rotary import rotate
from genrec_fast.ops import rotary
from timing import in_turn


def test_level(benchmark):
    generator = torch.Generator().manual_seed(0)
    x, positions = torch.randn(256, 24, 128, generator=generator), torch.randint(1000, (256,), generator=generator)
    angles = torch.arange(1000.0)[:, None] * 10000.0 ** -(torch.arange(0.0, 128, 2) / 128)
    table = torch.cat([angles.cos(), angles.sin()], 1)

    def ours() -> Tensor:
        return rotary(x, positions, table)

    def other() -> Tensor:
        return rotate(x, positions)

    torch.testing.assert_close(ours(), other(), rtol=1e-4, atol=1e-4)
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload="256 x 24 heads of 128", level="one", ours_us=mine, rival_us=theirs, rival="torch, angles anew"
    )
    benchmark.pedantic(ours, rounds=1)

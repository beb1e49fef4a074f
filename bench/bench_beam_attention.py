"""beam_attention against what a cache that is put in order by beams does: torch's attention over a copy for each beam.

Torch: every level gathers keys and values of the ancestors, repeats the prompt for each beam, and calls
`scaled_dot_product_attention`. On the CPU `beam_attention` is plain torch, too: the table shows what sharing the prompt
saves there, and nothing about a card. Both sides agree within rounding, asserted before they are timed in turn in one
process; the table shows minima.
`pytest bench/bench_beam_attention.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from beam_levels import SHAPES, repeated
from genrec_fast.ops import beam_attention
from timing import in_turn


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.small])
def test_level(benchmark, name):
    shape = SHAPES[name]
    level = shape.level(torch.float32)

    def ours() -> Tensor:
        return beam_attention(**level)

    def other() -> Tensor:
        return repeated(**level)

    torch.testing.assert_close(ours(), other(), rtol=1e-4, atol=1e-5)
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{name}: {shape.said}", level="last", ours_us=mine, rival_us=theirs, rival="torch, prompt repeated"
    )
    benchmark.pedantic(ours, rounds=1)

"""fingerprint against torch's own pass over the same bytes (a sum of float32), which also is bound by memory.

Both read every byte once; that the value is the twin's is asserted before they are timed in turn in one process.
`pytest bench/bench_fingerprint.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_fast.ops.fingerprint import fingerprint
from genrec_fast.ops.reference.fingerprint import fingerprint as twin
from timing import in_turn

MODELS = {  # tensors, floats in each
    "200 of 25 KB": (200, 6_250),
    "50 of 400 KB": (50, 100_000),
    "20 of 10 MB": (20, 2_500_000),
}


@pytest.mark.parametrize("name", MODELS)
def test_fingerprint(benchmark, name):
    count, size = MODELS[name]
    weights = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    assert fingerprint(weights[:3]) == twin(weights[:3])

    def sums() -> list[Tensor]:
        return [weight.sum() for weight in weights]

    def ours() -> int:
        return fingerprint(weights)

    mine, theirs = in_turn(ours, sums)
    benchmark.extra_info.update(workload=name, level="all", ours_us=mine, rival_us=theirs, rival="torch sum")
    benchmark.extra_info["ours_gigabytes_per_second"] = count * size * 4 / 1e3 / mine
    benchmark.pedantic(ours, rounds=5)

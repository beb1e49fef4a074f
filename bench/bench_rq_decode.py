"""rq_decode against torch (a sum of embeddings) and faiss (ResidualQuantizer.decode).

Both sides give equal vectors, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_rq_decode.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import faiss
import pytest
import torch
from torch import Tensor

from baselines import faiss_packed, faiss_quantizer
from genrec_fast.ops.rq_decode import rq_decode
from timing import in_turn
from workloads import VECTORS

faiss.omp_set_num_threads(torch.get_num_threads())


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("rival", ["torch", "faiss"])
def test_rq_decode(benchmark, name, rival):
    shape = VECTORS[name]
    books, codes = shape.codebooks(), shape.codes()
    wide = codes.long().T.contiguous()

    def ours() -> Tensor:
        return rq_decode(codes, books)

    def embeddings() -> Tensor:
        total = torch.nn.functional.embedding(wide[0], books[0])
        for column, book in zip(wide[1:], books[1:], strict=True):
            total += torch.nn.functional.embedding(column, book)
        return total

    if rival == "torch":
        other = embeddings
        assert torch.equal(ours(), embeddings())
    else:
        quantizer = faiss_quantizer(shape, books)
        bits = faiss_packed(codes, quantizer)

        def other() -> Tensor:
            return torch.from_numpy(quantizer.decode(bits))

        assert torch.allclose(ours(), other(), rtol=1e-6, atol=1e-6)
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{name} x {len(codes):,}, decode", level="all", ours_us=mine, rival_us=theirs, rival=rival
    )
    benchmark.pedantic(ours, rounds=5)

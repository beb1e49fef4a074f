"""rq_encode against faiss (ResidualQuantizer, knn per level), torch and vector-quantize-pytorch where installed.

Both sides give equal codes, asserted before they are timed in turn in one process; the table shows minima. The share of
sgemm counts the products that the codes need; in bfloat16 it may pass 100 %.
`pytest bench/bench_rq_encode.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from baselines import faiss_quantizer
from genrec_fast.ops.reference.rq_encode import scores
from genrec_fast.ops.rq_encode import rq_encode
from timing import gemm_flops, in_turn
from workloads import VECTORS, Vectors

faiss.omp_set_num_threads(torch.get_num_threads())

Encode = Callable[[], Tensor]


def faiss_rq(shape: Vectors, x: Tensor, books: list[Tensor], beams: int, tables: bool) -> Encode:
    """faiss' residual quantizer; its tables of products between codes are made here, outside of what is timed."""
    quantizer = faiss_quantizer(shape, books)
    quantizer.max_beam_size, quantizer.use_beam_LUT = beams, int(tables)
    quantizer.compute_codebook_tables()
    bits, array = shape.codebook_size.bit_length() - 1, x.numpy()
    unpack = [shape.num_levels, bits]
    return lambda: torch.from_numpy(faiss.unpack_bitstrings(quantizer.compute_codes(array), *unpack).astype(np.int32))


def faiss_knn(shape: Vectors, x: Tensor, books: list[Tensor], beams: int, tables: bool) -> Encode:
    def encode() -> Tensor:
        rest, codes = x.numpy(), []
        for book in books:
            nearest = faiss.knn(rest, book.numpy(), 1)[1][:, 0]
            codes.append(torch.from_numpy(nearest))
            rest = rest - book.numpy()[nearest]
        return torch.stack(codes, 1).to(torch.int32)

    return encode


def torch_argmin(shape: Vectors, x: Tensor, books: list[Tensor], beams: int, tables: bool) -> Encode:
    halves = [book.square().sum(1) / 2 for book in books]

    def encode() -> Tensor:
        blocks = []
        for rest in x.split(4096):
            codes = []
            for book, half in zip(books, halves, strict=True):
                codes.append(torch.addmm(half, rest, book.T, alpha=-1).argmin(1))
                rest = rest - book[codes[-1]]
            blocks.append(torch.stack(codes, 1))
        return torch.cat(blocks).to(torch.int32)

    return encode


def vector_quantize_pytorch(shape: Vectors, x: Tensor, books: list[Tensor], beams: int, tables: bool) -> Encode:
    rival = pytest.importorskip("vector_quantize_pytorch")
    module = rival.ResidualVQ(dim=shape.depth, num_quantizers=shape.num_levels, codebook_size=shape.codebook_size)
    for layer, book in zip(module.layers, books, strict=True):
        layer._codebook.embed.data.copy_(book[None])
        layer._codebook.initted.data.fill_(True)
    module.eval()

    @torch.no_grad()
    def encode() -> Tensor:
        return torch.cat([module(block)[1] for block in x.split(4096)]).to(torch.int32)

    return encode


RIVALS: dict[str, tuple[Callable[..., Encode], int, bool]] = {
    "faiss RQ, beam 1": (faiss_rq, 1, False),
    "faiss.knn per level": (faiss_knn, 1, False),
    "torch addmm + argmin": (torch_argmin, 1, False),
    "vector-quantize-pytorch": (vector_quantize_pytorch, 1, False),
    "faiss RQ, beam 5": (faiss_rq, 5, False),
    "faiss RQ, beam 5, tables": (faiss_rq, 5, True),
}


def assert_same_codes(ours: Tensor, theirs: Tensor, x: Tensor, books: list[Tensor]) -> None:
    """Equal but for near ties: where they first differ, both codes are equally far within float32 rounding."""
    different = (ours != theirs).any(1).nonzero()[:, 0]
    assert len(different) <= 1e-3 * len(x)
    for row in different.tolist():
        rest = x[row : row + 1]
        for book, mine, other in zip(books, ours[row].tolist(), theirs[row].tolist(), strict=True):
            if mine != other:
                far = scores(rest, book)[0]
                assert far[mine] <= far[other] <= far[mine] + 1e-5 * rest.norm() * book.norm(dim=1).max()
                break
            rest = rest - book[mine]


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rq_encode(benchmark, name, rival, precision):
    make, beams, tables = RIVALS[rival]
    if beams > 1 and precision != "float32":
        pytest.skip("beams are scored in float32")
    shape = VECTORS[name]
    books, rows = shape.codebooks(), shape.rows()
    x = rows if beams == 1 else rows[: max(1, len(rows) // 4)]
    if tables and shape.codebook_size > 1024:
        pytest.skip("faiss would table 3 x 8192 x 8192 products")
    encode = make(shape, x, books, beams, tables)

    def ours() -> Tensor:
        return rq_encode(x, books, num_beams=beams, precision=precision)

    codes, others = ours(), encode()
    if beams == 1:
        assert_same_codes(codes, others, x, books)
    else:  # a near tie on the way may change all that follows: few rows
        assert (codes != others).any(1).float().mean() < 2e-3
    mine, theirs = in_turn(ours, encode)
    flops = 2.0 * len(x) * shape.depth * shape.codebook_size * shape.num_levels
    benchmark.extra_info.update(
        workload=f"{name} x {len(x):,}" + (f", {beams} beams" if beams > 1 else ""),
        level=precision,
        ours_us=mine,
        rival_us=theirs,
        rival=rival,
        limit=flops / (mine * 1e-6) / gemm_flops(),
    )
    benchmark.pedantic(ours, rounds=1)

"""Greedy error of residual k-means against faiss at equal iterations, on the vectors of the fit and on new ones.

Both sides in one run, per seed, one thread: faiss.Kmeans per level, faiss.ResidualQuantizer (beam 1) of each training
type, and RQKMeans. Every error is of codes by ops.rq_encode, so that only the codebooks differ.
Run: python bench/rqkmeans_quality.py [--features FILE.npy] [--seeds 3] [--rows 10000] [--width 64] [--codes 256]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers import RQKMeansConfig

Rival = Callable[[Tensor, int], list[Tensor]]


def faiss_kmeans(levels: int, codes: int, iterations: int) -> Rival:
    def books(x: Tensor, seed: int) -> list[Tensor]:
        found, left = [], x
        for level in range(levels):
            kmeans = faiss.Kmeans(
                x.shape[1],
                codes,
                niter=iterations,
                seed=seed * 1000 + level,
                min_points_per_centroid=1,
                max_points_per_centroid=1 << 30,
            )
            kmeans.train(left.numpy())
            found.append(torch.from_numpy(kmeans.centroids.copy()))
            left = left - ops.rq_decode(ops.rq_encode(left, found[-1:]), found[-1:])
        return found

    return books


def faiss_rq(levels: int, codes: int, iterations: int, train_type: int) -> Rival:
    def books(x: Tensor, seed: int) -> list[Tensor]:
        quantizer = faiss.ResidualQuantizer(x.shape[1], levels, codes.bit_length() - 1)
        quantizer.train_type, quantizer.max_beam_size = train_type, 1
        quantizer.cp.niter, quantizer.cp.seed = iterations, seed + 1
        quantizer.train(x.numpy())
        stacked = faiss.vector_to_array(quantizer.codebooks).reshape(levels, codes, -1)
        return [torch.from_numpy(book.copy()) for book in stacked]

    return books


def ours(levels: int, codes: int, iterations: int, **settings: object) -> Rival:
    def books(x: Tensor, seed: int) -> list[Tensor]:
        config = RQKMeansConfig(codebook_sizes=(codes,) * levels, iterations=iterations, **settings)  # type: ignore[arg-type]
        tokenizer = config.build(Catalog(features=x))
        tokenizer.fit(x, seed=seed)
        return tokenizer.codebooks

    return books


def rivals(levels: int, codes: int, iterations: int, quick: bool) -> dict[str, Rival]:
    shape = (levels, codes, iterations)
    rq = faiss.ResidualQuantizer
    table = {
        "faiss.Kmeans per level": faiss_kmeans(*shape),
        "faiss RQ, default": faiss_rq(*shape, rq.Train_default),
        "faiss RQ, progressive_dim": faiss_rq(*shape, rq.Train_progressive_dim),
        "faiss RQ, progressive_dim + refine": faiss_rq(*shape, rq.Train_progressive_dim | rq.Train_refine_codebook),
        "RQKMeans": ours(*shape),
    }
    if not quick:
        table |= {
            "RQKMeans, refinements=0, shrinkage=0": ours(*shape, refinements=0, shrinkage=0.0),
            "RQKMeans, shrinkage=0": ours(*shape, shrinkage=0.0),
            "RQKMeans, init=progressive": ours(*shape, init="progressive"),
        }
    return table


def error(x: Tensor, books: list[Tensor]) -> float:
    return float((x - ops.rq_decode(ops.rq_encode(x, books), books)).double().square().mean())


def table(name: str, x: Tensor, new: Tensor, options: argparse.Namespace) -> None:
    print(
        f"\n{name}: fit {len(x)} x {x.shape[1]}, new {len(new)}; {options.levels} x {options.codes} codes, "
        f"{options.iterations} iterations, seeds {options.seeds}; mean (least to largest), process seconds"
    )
    for rival, books_of in rivals(options.levels, options.codes, options.iterations, options.quick).items():
        fit, fresh, begin = [], [], time.process_time()
        for seed in range(options.seeds):
            books = books_of(x, seed)
            fit.append(error(x, books))
            fresh.append(error(new, books))
        took = (time.process_time() - begin) / options.seeds
        cells = " | ".join(f"{np.mean(v):.6g} ({min(v):.6g} to {max(v):.6g})" for v in (fit, fresh))
        print(f"| {rival} | {cells} | {took:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, help="float [N, F]; a tenth of the rows is held out")
    parser.add_argument("--rows", type=int, default=10000, help="of the random matrix; a third more is held out")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--matrix-seed", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="defaults only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(options.matrix_seed)
    if options.features is not None:
        x = torch.from_numpy(np.load(options.features).astype(np.float32))
        x = x[torch.randperm(len(x), generator=generator)]
        cut = len(x) * 9 // 10
        table(options.features.name, x[:cut], x[cut:], options)
    else:
        x = torch.randn(options.rows * 4 // 3, options.width, generator=generator)
        table("random normal matrix", x[: options.rows], x[options.rows :], options)


if __name__ == "__main__":
    main()

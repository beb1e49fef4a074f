"""kmeans_step against faiss (knn, then sums in torch) and torch (addmm, argmin, index_add).

Both sides give equal steps, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_kmeans_step.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import faiss
import pytest
import torch
from torch import Tensor

from genrec_fast.ops.kmeans_step import KMeansStep, kmeans_step
from timing import gemm_flops, in_turn
from workloads import VECTORS

faiss.omp_set_num_threads(torch.get_num_threads())


def sums_of(x: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """In float32, the faster way of both."""
    sums = torch.zeros(size, x.shape[1]).index_add_(0, labels, x)
    return sums, torch.bincount(labels, minlength=size)


def faiss_step(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    distances, labels = faiss.knn(x.numpy(), centroids.numpy(), 1)
    found = torch.from_numpy(labels[:, 0])
    return found, *sums_of(x, found, len(centroids)), torch.from_numpy(distances).sum()


def torch_step(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norms = centroids.square().sum(1)
    best = [torch.addmm(norms, block, centroids.T, alpha=-2).min(1) for block in x.split(4096)]
    found = torch.cat([one.indices for one in best])
    inertia = x.square().sum() + torch.cat([one.values for one in best]).sum()
    return found, *sums_of(x, found, len(centroids)), inertia


def assert_same_step(ours: KMeansStep, theirs: tuple[Tensor, Tensor, Tensor, Tensor], x: Tensor, c: Tensor) -> None:
    """Equal labels but for ties within float32 rounding; the rest equal within rounding and those ties."""
    labels, sums, counts, inertia = theirs
    other = (ours.labels.long() != labels).nonzero()[:, 0]
    gap = (x[other].double() - c[labels[other]].double()).square().sum(1)
    gap -= (x[other].double() - c[ours.labels[other].long()].double()).square().sum(1)
    assert len(other) <= 1e-3 * len(x)
    assert bool((gap >= 0).all())
    assert bool((gap <= 1e-4).all())
    if not len(other):
        assert torch.equal(ours.counts, counts)
        assert torch.allclose(ours.sums, sums.double(), rtol=1e-4, atol=1e-3)
    assert ours.inertia.item() == pytest.approx(inertia.item(), rel=1e-4)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("rival", ["faiss.knn", "torch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kmeans_step(benchmark, name, rival, precision):
    shape = VECTORS[name]
    x, centroids = shape.rows(), shape.codebooks()[0]
    step = {"faiss.knn": faiss_step, "torch": torch_step}[rival]

    def ours() -> KMeansStep:
        return kmeans_step(x, centroids, precision=precision)

    assert_same_step(ours(), step(x, centroids), x, centroids)
    mine, theirs = in_turn(ours, lambda: step(x, centroids))
    flops = 2.0 * shape.num_rows * shape.depth * shape.codebook_size
    benchmark.extra_info.update(
        workload=f"{name} x {len(x):,}, Lloyd step",
        level=precision,
        ours_us=mine,
        rival_us=theirs,
        rival=f"{rival} and index_add_",
        limit=flops / (mine * 1e-6) / gemm_flops(),
    )
    benchmark.pedantic(ours, rounds=3)

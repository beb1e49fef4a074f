"""topk_inner_product against torch (products in blocks and topk) and faiss (IndexFlatIP).

Both sides find the same items, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_retrieve.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import functools

import faiss
import pytest
import torch
from torch import Tensor

from genrec_fast.ops import topk_inner_product
from timing import in_turn
from workloads import TABLES

faiss.omp_set_num_threads(torch.get_num_threads())

ITEMS_PER_BLOCK = 65_536  # of torch's scores: 64 MiB for 256 users


@functools.cache
def table_of(name: str) -> Tensor:
    return TABLES[name].rows()


def in_blocks(queries: Tensor, table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, ids = queries.new_full((len(queries), k), -torch.inf), torch.zeros(len(queries), k, dtype=torch.int64)
    for first in range(0, len(table), ITEMS_PER_BLOCK):
        block = table[first : first + ITEMS_PER_BLOCK]
        value, place = torch.topk(queries @ block.T, min(k, len(block)), dim=1)
        best, order = torch.topk(torch.cat([best, value], 1), k, dim=1)
        ids = torch.cat([ids, place + first], 1).gather(1, order)
    return best, ids


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], name: str) -> None:
    """Equal scores, and equal items wherever no neighbour is as good as equal: the rivals round differently."""
    scores, ids = ours
    torch.testing.assert_close(scores, theirs[0], rtol=1e-5, atol=1e-4, msg=lambda text: f"{name}: {text}")
    gap = (scores[:, 1:] - scores[:, :-1]).abs() > 1e-3
    clear = torch.nn.functional.pad(gap, (1, 0), value=True) & torch.nn.functional.pad(gap, (0, 1), value=False)
    assert bool((ids == theirs[1])[clear].all()), name
    assert float(clear.double().mean()) > 0.5, name


@pytest.mark.parametrize("users", [1, 32, 256])
@pytest.mark.parametrize("k", [10, 100])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rival", ["torch", "faiss"])
def test_retrieve(benchmark, name, k, users, rival):
    shape = TABLES[name]
    table = table_of(name)
    queries = torch.randn(users, shape.depth, generator=torch.Generator().manual_seed(1))

    def ours() -> tuple[Tensor, Tensor]:
        return topk_inner_product(queries, table, k)

    if rival == "torch":

        def other() -> tuple[Tensor, Tensor]:
            return in_blocks(queries, table, k)

    else:
        index = faiss.IndexFlatIP(shape.depth)
        index.add(table.numpy())

        def other() -> tuple[Tensor, Tensor]:
            found = index.search(queries.numpy(), k)
            return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    assert_same(ours(), other(), name)
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{name}, k = {k}, {users} users", level="all", ours_us=mine, rival_us=theirs, rival=rival
    )
    benchmark.pedantic(ours, rounds=1)

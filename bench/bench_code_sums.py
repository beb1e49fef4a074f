"""topk_code_sums against torch's fastest way, and a walk of graph_steps against topk_code_sums.

Torch: for one user a look-up and an addition per level, for several an embedding bag, whose rows are the users' scores
of a code; then topk. Each side finds the same, asserted before they are timed in turn in one process; the table shows
minima. A walk looks at a part of the items: its row says what that saves, and how many of the scan's items it finds.
`pytest bench/bench_code_sums.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from genrec_fast.decoders import code_neighbours
from genrec_fast.ops import graph_step, topk_code_sums
from timing import in_turn
from workloads import CODES

ITEMS_PER_BLOCK = 16_384  # of the bags: as fast as any, 12,101 items and more


@functools.cache
def parts_of(name: str, users: int) -> tuple[Tensor, Tensor, list[int]]:
    """What the users say of codes, the items' codes, the sizes."""
    shape = CODES[name]
    return shape.logprobs(users), shape.codes(), [shape.codebook_size] * shape.num_levels


@functools.cache
def graph_of(name: str) -> Tensor:
    return code_neighbours(CODES[name].tables(), CODES[name].codes(), 100)


def by_level(logprobs: Tensor, columns: list[Tensor], sizes: list[int], k: int) -> tuple[Tensor, Tensor]:
    total = torch.zeros(len(logprobs), len(columns[0]))
    for scores, codes in zip(logprobs.split(sizes, 1), columns, strict=True):
        total += scores[:, codes]
    found: tuple[Tensor, Tensor] = torch.topk(total, k, dim=1)
    return found


def by_bags(logprobs: Tensor, places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, ids = torch.full((len(logprobs), k), -torch.inf), torch.zeros(len(logprobs), k, dtype=torch.int64)
    table = logprobs.T.contiguous()
    for first in range(0, len(places), ITEMS_PER_BLOCK):
        block = torch.nn.functional.embedding_bag(places[first : first + ITEMS_PER_BLOCK], table, mode="sum")
        value, place = block.T.topk(min(k, len(block)), dim=1)
        best, order = torch.cat([best, value], 1).topk(k, dim=1)
        ids = torch.cat([ids, place + first], 1).gather(1, order)
    return best, ids


@pytest.mark.parametrize("users", [1, 16, 256])
@pytest.mark.parametrize("name", CODES)
def test_scan(benchmark, name, users):
    logprobs, codes, sizes = parts_of(name, users)
    if users * len(codes) > 1 << 25:
        pytest.skip("torch's scores would not fit beside the rest")
    columns = [column.long() for column in codes.unbind(1)]
    places = codes.long() + torch.tensor([0, *sizes[:-1]]).cumsum(0)

    def ours() -> tuple[Tensor, Tensor]:
        return topk_code_sums(logprobs, codes, 10, codebook_sizes=sizes)

    def other() -> tuple[Tensor, Tensor]:
        return by_level(logprobs, columns, sizes, 10) if users == 1 else by_bags(logprobs, places, 10)

    assert torch.equal(ours()[0], other()[0])
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{name}, k = 10, {users} users", level="all", ours_us=mine, rival_us=theirs, rival="torch"
    )
    benchmark.pedantic(ours, rounds=1)


@pytest.mark.parametrize("users", [1, 16])
@pytest.mark.parametrize("name", [name for name in CODES if CODES[name].num_items < 100_000])
def test_walk(benchmark, name, users):
    logprobs, codes, sizes = parts_of(name, users)
    near = graph_of(name)
    start = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:20].int().expand(users, -1)

    def walk() -> Tensor:
        items = start
        for _ in range(3):
            items, _, _ = graph_step(logprobs, codes, near, items, 20, codebook_sizes=sizes)
        return items

    def scan() -> Tensor:
        return topk_code_sums(logprobs, codes, 10, codebook_sizes=sizes)[1]

    found, best = walk()[:, :10].long(), scan()
    step = graph_step(logprobs, codes, near, start, 20, codebook_sizes=sizes)
    seen = near[start[0].long()].unique()
    alone = topk_code_sums(logprobs, codes[seen.long()], 20, codebook_sizes=sizes)
    assert torch.equal(step.items, seen[alone[1]])
    share = float((found.unsqueeze(2) == best.unsqueeze(1)).any(2).double().mean())
    mine, theirs = in_turn(walk, scan)
    benchmark.extra_info.update(
        workload=f"{name}, {users} users, 3 steps of 20 x 100, {share:.0%} of the best 10",
        level="all",
        ours_us=mine,
        rival_us=theirs,
        rival="our scan",
    )
    benchmark.pedantic(walk, rounds=1)

"""completable_codes against the same question asked of torch, all rows and items at once.

Torch: level by level, which items have what a row wrote; those that have all of it mark their codes. Both sides give
the same bits, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_completable_codes.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_fast.ops import completable_codes
from timing import in_turn
from workloads import CODES


def at_once(written: Tensor, columns: list[Tensor], places: Tensor, width: int) -> Tensor:
    users, beams, levels = written.shape
    rows = written.view(-1, levels)
    fits = torch.ones(len(rows), len(places), dtype=torch.bool)
    for level, column in enumerate(columns):
        own = rows[:, level, None]
        fits &= (own == column) | (own < 0)
    row, item = fits.nonzero(as_tuple=True)
    open_to = rows[row] < 0
    out = torch.zeros(len(rows), width, dtype=torch.bool)
    out[row.unsqueeze(1).expand_as(open_to)[open_to], places[item][open_to]] = True
    return out.view(users, beams, width)


@pytest.mark.parametrize("users", [1, 16])
@pytest.mark.parametrize("name", [name for name in CODES if CODES[name].num_items < 100_000])
def test_half_written(benchmark, name, users):
    shape = CODES[name]
    codes, sizes = shape.codes(), [shape.codebook_size] * shape.num_levels
    generator = torch.Generator().manual_seed(0)
    own = codes[torch.randint(len(codes), (users * 50,), generator=generator)].int()
    written = torch.where(torch.rand(own.shape, generator=generator) < 0.5, own, -1).view(users, 50, -1)
    columns = [column.int() for column in codes.unbind(1)]
    places = codes.long() + torch.tensor([0, *sizes[:-1]]).cumsum(0)

    def ours() -> Tensor:
        return completable_codes(written, codes, codebook_sizes=sizes)

    def other() -> Tensor:
        return at_once(written, columns, places, sum(sizes))

    assert torch.equal(ours(), other())
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{name}, {users} users x 50 rows", level="all", ours_us=mine, rival_us=theirs, rival="torch"
    )
    benchmark.pedantic(ours, rounds=1)

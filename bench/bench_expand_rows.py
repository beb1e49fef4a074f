"""expand_rows against torch: from the rows that a search kept to the best ten items of each user.

The catalog's items share semantic IDs, two on average; 50 rows a user, in the order a search leaves them, twenty items
left out for each user or none. Torch: all users at once, three stable sorts (`base/best_of.py`). Both sides give the
same items, codes and scores, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_expand_rows.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import genrec_fast as gf
from genrec_fast.base.best_of import best_of
from genrec_fast.ops import trie_filter
from genrec_fast.ops.expand_rows import expand_rows
from timing import in_turn

K = 10


@pytest.mark.parametrize("lists", [False, True], ids=["all", "20 left out"])
@pytest.mark.parametrize("users", [1, 32, 256])
def test_top_ten(benchmark, users, lists):
    generator = torch.Generator().manual_seed(0)
    trie = gf.build_trie(torch.randint(0, 80, (12_800, 2), generator=generator), codebook_sizes=(80, 80))
    rows = torch.stack([torch.randperm(trie.num_rows, generator=generator)[:50] for _ in range(users)]).int()
    codes = torch.randint(0, 80, (users, 50, 2), generator=generator, dtype=torch.int32)
    scores = torch.randn(users, 50, generator=generator).sort(1, descending=True).values
    left_out = [torch.randint(0, 12_800, (20,), generator=generator) for _ in range(users)]
    keep = trie_filter(trie, exclude=gf.Jagged.from_rows(left_out)) if lists else None

    def ours() -> tuple[Tensor, ...]:
        return expand_rows(trie, rows, codes, scores, K, keep)

    def other() -> tuple[Tensor, ...]:
        user, beam = (rows >= 0).nonzero(as_tuple=True)
        found = trie.items(rows[user, beam])
        item, source = found.values, found.row_index()
        if keep is not None:
            shown = keep.keeps(user[source], item)
            item, source = item[shown], source[shown]
        items, _, at = best_of(users, user[source], item, scores[user, beam][source], K)
        from_beam = beam[source[at]]  # ten items for every user
        own = torch.arange(users).unsqueeze(1)
        return items, codes[own, from_beam], scores[own, from_beam]

    for one, two in zip(ours(), other(), strict=True):
        assert torch.equal(one, two)
    mine, theirs = in_turn(ours, other)
    benchmark.extra_info.update(
        workload=f"{users} users x 50 rows, {'20 left out' if lists else 'all items'}",
        level="all",
        ours_us=mine,
        rival_us=theirs,
        rival="torch",
    )
    benchmark.pedantic(ours, rounds=1)

"""draft_tree and draft_verify, one pass of a speculative search, against the same in torch around trie_step.

A trie of 12,000 items of 4 codes of 256; a beam search of random logits is the draft, its levels but the last are read,
and the target thinks as the draft does, so all of them are accepted. Both sides give the same, asserted before they are
timed in turn in one process; the table shows minima.
`pytest bench/bench_draft_verify.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops import DraftBeams, DraftRows, draft_tree, draft_verify, trie_step
from genrec_fast.ops.reference.draft_tree import draft_tree as tree_in_torch
from genrec_fast.ops.reference.draft_verify import draft_verify as verify_in_torch
from timing import in_turn

LEVELS, CODES = 4, 256


@pytest.mark.parametrize(("users", "width"), [(1, 10), (1, 50), (16, 20)])
def test_one_pass(benchmark, users, width):
    generator = torch.Generator().manual_seed(0)
    trie = build_trie(torch.randint(CODES, (12_000, LEVELS), generator=generator), codebook_sizes=(CODES,) * LEVELS)
    nodes, scores, steps, logits = torch.zeros(users, 1, dtype=torch.int32), torch.zeros(users, 1), [], []
    for level in range(LEVELS):
        logits.append(torch.randn(users, nodes.shape[1], CODES, generator=generator))
        step = trie_step(trie, level, logits[-1], nodes, scores, num_beams=width)
        nodes, scores = step.nodes, step.scores
        steps.append(step)
    drafts = [[getattr(step, name) for step in steps[:-1]] for name in ("nodes", "parents", "codes")]
    drafts[1] = [parents.long() for parents in drafts[1]]
    prompt = torch.zeros(users, 1, dtype=torch.int64)
    asked = (prompt, torch.full((users, 1), -1, dtype=torch.int32), prompt, prompt[:, 0], *drafts)

    def own_tree() -> Any:
        return draft_tree(*asked)

    def torch_tree() -> tuple[Tensor, ...]:
        return tree_in_torch(*asked)

    tree, wide = own_tree(), torch_tree()
    assert torch.equal(torch.cat(tree.numbers, 1), wide[-1])
    assert torch.equal(tree.nodes, wide[0][:, : tree.nodes.shape[1]])
    read = torch.zeros(users, 1 + tree.nodes.shape[1], CODES)
    read[:, 0] = logits[0][:, 0]
    for at, numbers in zip(logits[1:], tree.numbers, strict=True):
        read.scatter_(1, numbers.unsqueeze(2).expand(-1, -1, CODES), at)
    rows = DraftRows(torch.cat([prompt, tree.parents], 1), torch.cat([asked[1], tree.codes], 1), read)
    numbers = torch.full((users, width), -1)
    numbers[:, 0] = 0
    live = torch.full((users, width), -1, dtype=torch.int32)
    live[:, 0] = 0
    totals = torch.zeros(users, width).masked_fill(live < 0, -torch.inf)
    begin = DraftBeams(
        prompt[:, 0],
        live,
        totals,
        torch.zeros(users, width, LEVELS, dtype=torch.int32),
        torch.zeros(users, width, dtype=torch.int64),
        numbers,
        torch.full((users,), -torch.inf),
    )
    beams = (width,) * LEVELS

    def one_level(level: int, at: Tensor, here: Tensor, paid: Tensor, most: int, sums: Tensor | None) -> Any:
        step = trie_step(trie, level, at, here, paid, num_beams=most, log_sums=sums)
        return step.scores, step.codes, step.parents, step.nodes, step.bound

    def own_verify() -> DraftBeams:
        return draft_verify(trie, rows, begin, num_beams=beams)

    def torch_verify() -> tuple[Tensor, ...]:
        return verify_in_torch(one_level, (*rows[:3], None), tuple(begin), beams, (CODES,) * LEVELS, None)

    for one, other in zip(own_verify(), torch_verify(), strict=True):
        assert torch.equal(one, other)
    assert bool((own_verify().levels == LEVELS).all())
    tree_us, torch_tree_us, verify_us, torch_verify_us = in_turn(own_tree, torch_tree, own_verify, torch_verify)
    benchmark.extra_info.update(
        workload=f"{users} users, {width} beams, tree {tree_us:.0f} us and {torch_tree_us:.0f} us",
        level="all",
        ours_us=verify_us,
        rival_us=torch_verify_us,
        rival="torch around trie_step",
    )
    benchmark.pedantic(own_verify, rounds=1)

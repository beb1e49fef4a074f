"""trie_step against the CSR-gather method in torch ops and against transformers with a Python trie, level by level.

Each benchmark first asserts that both sides give the same beams, then times them in turn in one process; the table
shows minima. `pytest bench/bench_trie_step.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from baselines import CsrGather, HfTrie
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops.trie_filter import trie_filter
from genrec_fast.ops.trie_step import TrieStep, trie_step
from timing import in_turn
from workloads import SEARCHES, Search

LEVELS = [(name, level) for name, shape in SEARCHES.items() for level in range(shape.num_levels)]


class Inputs(NamedTuple):
    logits: Tensor
    nodes: Tensor
    scores: Tensor


@functools.lru_cache(maxsize=1)  # a catalog of 20M items takes gigabytes on the rival's side
def catalog(shape: Search) -> tuple[Trie, CsrGather]:
    codes = shape.item_codes()
    sizes = (shape.codebook_size,) * shape.num_levels
    return build_trie(codes, codebook_sizes=sizes), CsrGather(codes, shape.codebook_size)


def catalog_of(shape: Search) -> tuple[Trie, CsrGather]:
    return catalog(replace(shape, users=0, beams=0, dtype=torch.float32, source=""))


def inputs(shape: Search, trie: Trie) -> list[Inputs]:
    """What each level of one search is given."""
    nodes, scores = torch.zeros(shape.users, 1, dtype=torch.int32), torch.zeros(shape.users, 1)
    given = []
    for level, logits in enumerate(shape.logits()):
        given.append(Inputs(logits, nodes, scores))
        step = trie_step(trie, level, logits, nodes, scores, num_beams=shape.beams)
        nodes, scores = step.nodes, step.scores
    return given


def assert_same_beams(ours: TrieStep, scores: Tensor, codes: Tensor, parents: Tensor, nodes: Tensor) -> None:
    """Equal scores within rounding; equal beams wherever the neighbours are not tied within rounding."""
    found = scores.shape[1]
    assert torch.equal(ours.scores[:, :found] > -torch.inf, scores > -torch.inf)
    live = scores > -torch.inf
    assert torch.allclose(ours.scores[:, :found][live], scores[live], rtol=0, atol=1e-5)
    gap = torch.nn.functional.pad(scores[:, :-1] - scores[:, 1:], (1, 1), value=torch.inf)
    gap[:, -1] = (scores[:, -1:] - ours.bound[:, None]).abs().squeeze(1) if found else 0
    clear = live & (gap[:, :-1] > 1e-5) & (gap[:, 1:] > 1e-5)
    assert bool(clear.any())
    for mine, theirs in ((ours.codes, codes), (ours.parents, parents), (ours.nodes, nodes)):
        assert torch.equal(mine[:, :found][clear].long(), theirs[clear])


@pytest.mark.parametrize(("name", "level"), LEVELS, ids=[f"{name}-level{level}" for name, level in LEVELS])
def test_step(benchmark, name, level):
    shape = SEARCHES[name]
    trie, csr = catalog_of(shape)
    given = inputs(shape, trie)[level]
    nodes = given.nodes.long()

    def ours() -> TrieStep:
        return trie_step(trie, level, *given, num_beams=shape.beams)

    def rival() -> object:
        return csr.step(level, given.logits, nodes, given.scores, shape.beams)

    assert_same_beams(ours(), *csr.step(level, given.logits, nodes, given.scores, shape.beams))
    mine, theirs = in_turn(ours, rival)
    benchmark.extra_info.update(
        workload=name,
        level=level,
        ours_us=mine,
        rival_us=theirs,
        rival="CSR gather in torch",
    )
    benchmark.pedantic(ours, rounds=20)


@pytest.mark.parametrize("name", ["v2048-1m-1x50", "v8192-1m-1x50"])
def test_hf_step(benchmark, name):
    """All levels of a search, as transformers' generate does them: every beam a row from the first level on."""
    shape = SEARCHES[name]
    trie, _ = catalog_of(shape)
    hf = HfTrie(shape.item_codes())
    given = inputs(shape, trie)
    prefixes = torch.zeros(shape.beams, 0, dtype=torch.int64)
    first = torch.full((shape.beams,), -1e9)
    first[0] = 0.0
    asked = []
    for level, one in enumerate(given):
        logits, scores = one.logits[0].expand(shape.beams, -1), one.scores[0] if level else first
        asked.append((prefixes, logits, scores))
        ours = trie_step(trie, level, *one, num_beams=shape.beams)
        best, flat = hf.step(*asked[-1], shape.beams)
        assert torch.allclose(ours.scores[0], best[: shape.beams], rtol=0, atol=1e-5)
        clear = (best[:-1] - best[1:]).abs()[: shape.beams] > 1e-5
        clear[1:] &= clear[:-1].clone()
        assert torch.equal(ours.codes[0][clear].long(), (flat % shape.codebook_size)[: shape.beams][clear])
        prefixes = torch.cat([prefixes[ours.parents[0].long()], ours.codes[0].long().unsqueeze(-1)], -1)

    def ours_all() -> None:
        for level, one in enumerate(given):
            trie_step(trie, level, *one, num_beams=shape.beams)

    def rival_all() -> None:
        for prefix, logits, scores in asked:
            hf.step(prefix, logits, scores, shape.beams)

    mine, theirs = in_turn(ours_all, rival_all)
    benchmark.extra_info.update(
        workload=name, level="all", ours_us=mine, rival_us=theirs, rival="transformers, Python trie"
    )
    benchmark.pedantic(ours_all, rounds=20)


def test_skew(benchmark):
    """All levels of a popularity-skewed catalog against a uniform one."""
    sides = []
    for name in ("v2048-1m-1x50-zipf", "v2048-1m-1x50"):
        shape = SEARCHES[name]
        trie = build_trie(shape.item_codes(), codebook_sizes=(shape.codebook_size,) * shape.num_levels)
        given = inputs(shape, trie)

        def search(trie: Trie = trie, given: list[Inputs] = given, beams: int = shape.beams) -> None:
            for level, one in enumerate(given):
                trie_step(trie, level, *one, num_beams=beams)

        sides.append(search)
    skewed, uniform = in_turn(*sides)
    benchmark.extra_info.update(
        workload="v2048-1m-1x50-zipf", level="all", ours_us=skewed, rival_us=uniform, rival="ours, uniform catalog"
    )
    benchmark.pedantic(sides[0], rounds=20)


@pytest.mark.parametrize("kind", ["allowed 10 %", "exclude 100", "valid"])
def test_options(benchmark, kind):
    """All levels with a filter or the other normalisation, against the plain step; preparing it is included."""
    shape = SEARCHES["v2048-1m-1x50"]
    trie, _ = catalog_of(shape)
    given = inputs(shape, trie)
    generator = torch.Generator().manual_seed(2)
    allowed = torch.rand(trie.num_items, generator=generator) < 0.1
    seen = Jagged.from_rows([torch.randint(0, trie.num_items, (100,), generator=generator)])
    trie.item_rows  # noqa: B018 (built once per trie)

    def search() -> None:
        flt = None
        if kind == "allowed 10 %":
            flt = trie_filter(trie, allowed=allowed)
        if kind == "exclude 100":
            flt = trie_filter(trie, exclude=seen)
        nodes, scores = given[0].nodes, given[0].scores
        for level, one in enumerate(given):
            normalize = "valid" if kind == "valid" else "all"
            step = trie_step(
                trie, level, one.logits, nodes, scores, num_beams=shape.beams, normalize=normalize, allowed=flt
            )
            nodes, scores = step.nodes, step.scores

    def plain() -> None:
        for level, one in enumerate(given):
            trie_step(trie, level, *one, num_beams=shape.beams)

    mine, theirs = in_turn(search, plain)
    benchmark.extra_info.update(
        workload=f"v2048-1m-1x50, {kind}", level="all", ours_us=mine, rival_us=theirs, rival="ours, plain"
    )
    benchmark.pedantic(search, rounds=20)

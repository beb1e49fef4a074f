"""Semantic IDs -> trie: time and bytes per item, one thread.

The time of 1M items stands beside the plain twin's, timed in the same process after both gave the same trie.
Run: pytest bench/bench_trie_build.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops.reference.trie_build import trie_build as twin
from genrec_fast.ops.trie_build import trie_build

NUM_LEVELS, CODEBOOK_SIZE = 4, 2048  # the shape of issue 2: V=2048, L=4, uniform codes


def uniform_codes(num_items: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (num_items, NUM_LEVELS), dtype=np.int32)


def test_build_against_the_twin(benchmark: Any) -> None:
    codes = uniform_codes(1_000_000)
    wide = torch.from_numpy(codes).long()
    begin = time.perf_counter()
    plain = twin(wide)
    benchmark.extra_info["twin_seconds"] = time.perf_counter() - begin
    fast = trie_build(codes)
    assert fast.codebook_sizes == plain.codebook_sizes
    for a, b in zip(
        [*fast.tokens, *fast.child_bases, *fast.child_deltas, *fast[5:]],
        [*plain.tokens, *plain.child_bases, *plain.child_deltas, *plain[5:]],
        strict=True,
    ):
        assert a.dtype == b.dtype
        assert np.array_equal(a.numpy(), b.numpy())
    benchmark.pedantic(trie_build, (codes,), rounds=5)
    benchmark.extra_info["times_the_twin"] = benchmark.extra_info["twin_seconds"] / benchmark.stats.stats.min
    print(f"\ntwin {benchmark.extra_info['twin_seconds']:.2f} s, build {benchmark.stats.stats.min:.3f} s")


@pytest.mark.parametrize("num_items", [1_000_000, 20_000_000])
def test_build(benchmark: Any, num_items: int) -> None:
    codes = uniform_codes(num_items)
    trie = benchmark.pedantic(build_trie, (codes,), rounds=3)
    sample = torch.from_numpy(codes[:: num_items // 100_000])
    assert trie.lookup(sample).equal(trie.item_rows[:: num_items // 100_000])
    stats = trie.stats()
    benchmark.extra_info["search_bytes_per_item"] = stats.search_bytes / num_items
    benchmark.extra_info["total_bytes_per_item"] = stats.total_bytes / num_items
    print(f"\n{stats}")


def test_load(benchmark: Any, tmp_path: Path) -> None:
    trie = build_trie(uniform_codes(1_000_000))
    trie.save(tmp_path / "trie.safetensors")
    loaded = benchmark.pedantic(Trie.load, (tmp_path / "trie.safetensors",), rounds=3)
    assert loaded.item_rows.equal(trie.item_rows)

"""Appends items to a large catalog's trie, searches both, merges them, and asserts that all three are one.

Run: python bench/trie_extended.py --num-items 20000000 --num-new 10000
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np
import torch

from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops.trie_step import TrieStep, trie_step
from timing import peak_bytes


def milliseconds(times: int, call: Callable[[], object]) -> str:
    """Least and median of so many calls, of the processor's time: one thread, which others may keep waiting."""
    found = []
    for _ in range(times):
        begin = time.process_time()
        call()
        found.append(1e3 * (time.process_time() - begin))
    return f"{min(found):.2f} ms at least, {sorted(found)[times // 2]:.2f} ms in the middle of {times}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-items", type=int, default=20_000_000)
    parser.add_argument("--num-new", type=int, default=10_000)
    parser.add_argument("--codebook-size", type=int, default=2048)
    parser.add_argument("--num-levels", type=int, default=4)
    parser.add_argument("--num-beams", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size, levels = given.codebook_size, given.num_levels
    codes = np.random.default_rng(0).integers(0, size, (given.num_items + given.num_new, levels), dtype="int32")
    sizes, new = (size,) * levels, torch.from_numpy(codes[given.num_items :])
    trie = build_trie(codes[: given.num_items], codebook_sizes=sizes)
    print(f"{given.num_items:,} items of {levels} codes below {size}, {given.num_new:,} more; one thread")
    tensors = [*trie.tokens, *trie.child_bases, *trie.child_deltas, trie.leaf_bases, trie.leaf_deltas, trie.leaf_items]
    print(f"copy of the trie's tensors: {milliseconds(5, lambda: [tensor.clone() for tensor in tensors])}")
    print(f"extended: {milliseconds(21, lambda: trie.extended(new))}")
    extended = trie.extended(new)
    print(f"extended again by as many: {milliseconds(21, lambda: extended.extended(new))}")
    print(f"without as many: {milliseconds(5, lambda: trie.without(torch.arange(given.num_new)))}")
    begin = time.process_time()
    rebuilt = extended.merged()
    print(f"merged: {time.process_time() - begin:.2f} s, peak {peak_bytes() / 2**30:.2f} GiB with the codes")
    generator = torch.Generator().manual_seed(0)
    nodes, scores = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    for level in range(levels):
        logits = torch.randn(1, nodes.shape[1], size, generator=generator) * 2
        beams = {"num_beams": given.num_beams}
        steps: list[TrieStep] = []
        for name, some in (("merged", rebuilt), ("extended", extended)):
            step = functools.partial(trie_step, some, level, logits, nodes, scores, **beams)
            steps.append(step())
            print(f"level {level}, {name}: {milliseconds(21, step)}")
        if not all(map(torch.equal, *steps)):
            raise SystemExit(f"level {level}: the extended trie differs from the merged one")
        nodes, scores = steps[0].nodes, steps[0].scores


if __name__ == "__main__":
    main()

"""Builds and searches a catalog of any size in one process and prints time, bytes and peak memory, the input included.

Run: python bench/trie_at_scale.py --num-items 100000000
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops.trie_step import trie_step
from timing import peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-items", type=int, default=100_000_000)
    parser.add_argument("--codebook-size", type=int, default=2048)
    parser.add_argument("--num-levels", type=int, default=4)
    parser.add_argument("--num-beams", type=int, default=50)
    parser.add_argument("--dtype", choices=("uint16", "int32"), default="int32", help="of the codes handed in")
    given = parser.parse_args()
    torch.set_num_threads(1)
    size, levels = given.codebook_size, given.num_levels
    codes = np.random.default_rng(0).integers(0, size, (given.num_items, levels), dtype=given.dtype)
    print(f"{given.num_items:,} items of {levels} codes below {size}, {given.dtype}: {peak_bytes() / 2**30:.2f} GiB")
    begin = time.perf_counter()
    trie = build_trie(codes, codebook_sizes=(size,) * levels)
    print(f"build: {time.perf_counter() - begin:.2f} s on one thread, peak {peak_bytes() / 2**30:.2f} GiB")
    print(trie.stats())
    generator = torch.Generator().manual_seed(0)
    nodes, scores = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
    prefix = torch.empty(1, 1, 0, dtype=torch.int64)
    for level in range(levels):
        logits = torch.randn(1, nodes.shape[1], size, generator=generator) * 2
        seconds = []
        for _ in range(20):
            begin = time.perf_counter()
            step = trie_step(trie, level, logits, nodes, scores, num_beams=given.num_beams)
            seconds.append(time.perf_counter() - begin)
        print(f"level {level}: {1e6 * min(seconds):.1f} us for {nodes.shape[1]} beams")
        parents = step.parents.long().unsqueeze(-1).expand(-1, -1, level)
        prefix = torch.cat([prefix.gather(1, parents), step.codes.long().unsqueeze(-1)], -1)
        nodes, scores = step.nodes, step.scores
    found = trie.items(nodes[0, :5])
    for row, item in enumerate(found.values[found.offsets[:-1]].tolist()):  # what was found is what was put in
        if codes[item].tolist() != prefix[0, row].tolist():
            raise SystemExit(f"item {item} has {codes[item].tolist()}, the search says {prefix[0, row].tolist()}")
    print(f"peak in all: {peak_bytes() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()

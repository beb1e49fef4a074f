"""Makes the graph of neighbours of a large catalog in one process and prints time and peak memory, the input included.

Run: python bench/graph_memory.py --num-items 1000000 --rows 2000
"""

from __future__ import annotations

import argparse

import torch

from genrec_fast.decoders import code_neighbours
from timing import clock, peak_bytes
from workloads import Codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-items", type=int, default=1_000_000)
    parser.add_argument("--num-levels", type=int, default=32)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--num-edges", type=int, default=100)
    parser.add_argument("--rows", type=int, default=0, help="of the first items only; 0: of all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = Codes(
        num_items=given.num_items,
        num_levels=given.num_levels,
        codebook_size=given.codebook_size,
        source="this command",
    )
    tables, codes = shape.tables(), shape.codes()
    rows = given.rows or given.num_items
    whole = torch.full((given.num_items, given.num_edges), -1, dtype=torch.int32)  # as large as all rows are
    print(f"{given.num_items:,} items of {given.num_levels} codes: {peak_bytes() / 2**30:.2f} GiB before the graph")
    begin = clock()
    whole[:rows] = code_neighbours(tables, codes, given.num_edges, slice(0, rows))
    spent = clock() - begin
    peak = peak_bytes() / 2**30
    print(
        f"{rows:,} rows of {given.num_edges} neighbours: {spent:.1f} s of one thread, {1e3 * spent / rows:.2f} ms a row"
    )
    print(f"peak in all, with the whole graph's {whole.nbytes / 2**30:.2f} GiB: {peak:.2f} GiB")
    units = [torch.nn.functional.normalize(table, dim=1) for table in tables]
    for item in range(0, rows, max(1, rows // 5)):  # against one item's likeness to all, made on its own
        alike = torch.zeros(given.num_items)
        for unit, column in zip(units, codes.long().unbind(1), strict=True):
            alike += (unit @ unit[column[item]])[column]
        best = alike.topk(given.num_edges).values
        if not torch.allclose(alike[whole[item].long()], best, rtol=0, atol=1e-4):
            raise SystemExit(f"item {item}: neighbours are not the most alike")


if __name__ == "__main__":
    main()

"""Encodes a file of vectors block by block and prints rows per second and peak memory; checks some of the codes.

The file holds random vectors (the same few thousand over and over), or, with --sparse, zeros that take no disk.
Run: python bench/encode_stream.py --num-rows 1000000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from genrec_fast.data import FeatureFile
from genrec_fast.ops.reference.rq_encode import rq_encode as twin
from genrec_fast.tokenizers import encode_file
from timing import peak_bytes

REPEATED = 8192  # rows of random vectors


def write_source(path: Path, rows: int, depth: int, dtype: str, sparse: bool) -> None:
    kind = np.dtype(dtype)
    with path.open("wb") as file:
        header = {"descr": kind.newbyteorder("<").str, "fortran_order": False, "shape": (rows, depth)}
        np.lib.format.write_array_header_1_0(file, header)
        if sparse:
            file.truncate(file.tell() + rows * depth * kind.itemsize)
            return
        block = np.random.default_rng(0).standard_normal((REPEATED, depth), dtype=np.float32).astype(kind)
        for start in range(0, rows, REPEATED):
            file.write(block[: rows - start].tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rows", type=int, default=1_000_000)
    parser.add_argument("--depth", type=int, default=768)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--num-levels", type=int, default=3)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of the file")
    parser.add_argument("--rows-per-block", type=int, default=None)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="the codes are the same"
    )
    parser.add_argument("--sparse", action="store_true", help="a file of zeros that takes no disk")
    parser.add_argument("--folder", type=Path, default=None, help="where the file is made (and removed)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    books = [
        torch.randn(given.codebook_size, given.depth, generator=generator) / 2**level
        for level in range(given.num_levels)
    ]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        source, out = Path(folder) / "features.npy", Path(folder) / "codes.npy"
        write_source(source, given.num_rows, given.depth, given.dtype, given.sparse)
        print(f"{given.num_rows:,} x {given.depth} {given.dtype}: {source.stat().st_size / 2**30:.2f} GiB")
        before, begin = peak_bytes(), time.perf_counter()
        busy = time.process_time()
        encode_file(books, source, out, rows_per_block=given.rows_per_block, precision=given.precision)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        print(f"{given.num_rows / seconds:,.0f} rows/s on one thread ({seconds:.1f} s)")
        print(f"{given.num_rows / busy:,.0f} rows per second of processor time: what a core of its own would reach")
        print(f"peak memory {peak_bytes() / 2**20:,.0f} MiB, of which {before / 2**20:,.0f} MiB before the first row")
        all_of_them = 1e7 / given.num_rows / 60
        print(f"10,000,000 rows: {all_of_them * seconds:.1f} minutes at this speed, {all_of_them * busy:.1f} busy")
        codes = np.load(out, mmap_mode="r")
        for first in {0, given.num_rows // 2, max(given.num_rows - 50, 0)}:
            last = min(first + 50, given.num_rows)
            rows = torch.cat(list(FeatureFile(source).blocks(first=first, last=last)))
            if not torch.equal(twin(rows, books), torch.from_numpy(np.array(codes[first:last]))):
                raise SystemExit(f"rows {first} to {last} have other codes than the twin gives")


if __name__ == "__main__":
    main()

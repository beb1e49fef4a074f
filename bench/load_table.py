"""Reads a table of MovieLens 20M's shape and says how long it took and how much memory: ``python bench/load_table.py``.

The table is made up (a user's ratings stand together, times in no order), written once and kept; ``--num-users`` and
``--events`` make a smaller one. Reading runs in a process of its own, whose peak is what the kernel counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from timing import environment, peak_bytes, where

SHAPE = (138_493, 26_744, 20_000_263)  # users, films and ratings of ml-20m


def write_table(path: Path, num_users: int, num_items: int, num_events: int, *, seed: int = 0) -> None:
    """``userId,movieId,rating,timestamp``: every user and film occurs; both are drawn with long tails."""
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(0.0, 1.2, num_users)
    users = np.repeat(np.arange(num_users), 1 + rng.multinomial(num_events - num_users, weights / weights.sum()))
    films = np.minimum((rng.random(num_events) ** 3 * num_items).astype(np.int64), num_items - 1)
    films[rng.choice(num_events, num_items, replace=False)] = np.arange(num_items)
    frame = pl.DataFrame(
        {
            "userId": users + 1,
            "movieId": films * 5 + 1,
            "rating": rng.integers(1, 11, num_events) / 2,
            "timestamp": rng.integers(789_652_009, 1_427_784_002, num_events),
        }
    )
    frame.write_csv(path)


def _read(path: str, answer: multiprocessing.SimpleQueue) -> None:
    from genrec_fast import data

    wall, busy, before = time.perf_counter(), time.process_time(), _peak()
    dataset = data.load(path)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    events = dataset.interactions
    assert events.timestamps is not None  # one for each event, in order: Interactions checks it
    answer.put(((events.num_users, events.num_items, events.num_events), wall, busy, before, _peak()))


def _peak() -> float:
    """GiB that this process held at most; on Linux getrusage would count its parent's, too."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_bytes() / 2**30
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20


def measure(path: Path) -> tuple[tuple[int, int, int], float, float, float, float]:
    """Counts, seconds by the clock and of the processor, GiB before and at the peak, of a process that only reads."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_read, args=(str(path), answer))
    process.start()
    process.join()
    assert process.exitcode == 0, f"the reader ended with {process.exitcode}"
    return answer.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-users", type=int, default=SHAPE[0])
    parser.add_argument("--num-items", type=int, default=SHAPE[1])
    parser.add_argument("--events", type=int, default=SHAPE[2])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    shape = (options.num_users, options.num_items, options.events)
    path = options.folder / f"ratings-{'x'.join(map(str, shape))}.csv"
    if not path.is_file():
        part = path.with_suffix(".part")
        write_table(part, *shape)
        part.rename(path)
    counts, wall, busy, before, peak = measure(path)
    assert counts == shape, f"read {counts}, wrote {shape}"
    print(where(environment()))
    print(
        f"{path}: {path.stat().st_size / 2**20:,.0f} MiB, {shape[0]:,} users, {shape[1]:,} items, {shape[2]:,} events"
    )
    print(f"read in {wall:.1f} s, {busy:.1f} s of processors; {peak:.2f} GiB at the peak, {before:.2f} before")


if __name__ == "__main__":
    main()

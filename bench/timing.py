"""How the benchmarks time, and on what: sides in turn, the machine's arithmetic limit, and a line that says where."""

from __future__ import annotations

import functools
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from genrec_fast.env import collect

SETTINGS = ("GENREC_BENCH_SECONDS", "GENREC_BENCH_THREADS", "GENREC_BENCH_MODEL", "GENREC_FAST_ISA")
RIVALS = ("torch", "transformers", "ctranslate2", "faiss-cpu")


def clock() -> float:
    """Seconds: of this process where it runs on one thread, so that other work on the core does not count."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turn(*sides: Callable[[], object], seconds: float = 0.6, most: int = 300) -> list[float]:
    """Minimum time of each side in microseconds; they alternate, so that a busy moment hits them alike.

    Every side is called once before it is timed, then at most ``most`` times, until its calls have taken ``seconds``.
    GENREC_BENCH_SECONDS caps these (CI asks for equality and for rows, not for good figures).
    """
    seconds = min(seconds, float(os.environ.get("GENREC_BENCH_SECONDS", "inf")))
    best, spent = [float("inf")] * len(sides), [0.0] * len(sides)
    for side in sides:
        side()
    for _ in range(most):
        due = [i for i in range(len(sides)) if spent[i] < seconds]
        for i in due:
            start = clock()
            sides[i]()
            took = clock() - start
            best[i], spent[i] = min(best[i], took), spent[i] + took
        if not due:
            break
    return [1e6 * b for b in best]


@functools.cache
def gemm_flops(dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a square product on the threads in use: the machine's arithmetic limit in practice."""
    a = torch.randn(512, 512).to(dtype)
    (best,) = in_turn(lambda: a @ a, seconds=0.3)
    return float(2 * 512**3 / best * 1e6)


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment() -> dict[str, Any]:
    """What a reader of a table must know."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    program = Path(sys.argv[0])
    called = ["pytest"] if "pytest" in str(program) else ["python", f"bench/{program.name}"]
    chosen = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    return {
        "device": _processor(),
        "isa": collect().isa,
        "threads": torch.get_num_threads(),
        "versions": {name: found for name in RIVALS if (found := _version(name)) is not None},
        "commit": commit or "unknown",
        "command": shlex.join([*chosen, *called, *sys.argv[1:]]),
    }


def where(known: dict[str, Any]) -> str:
    """The machine, the instruction set, threads, versions, commit and command of ``environment()``, in one line."""
    versions = ", ".join(f"{name} {found}" for name, found in known["versions"].items())
    threads = f"{known['threads']} thread{'' if known['threads'] == 1 else 's'}"
    return f"{known['device']}, {known['isa']}, {threads}, {versions}, commit {known['commit']}: `{known['command']}`"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

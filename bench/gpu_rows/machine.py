"""What the card gives torch, and the ops' suites on it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gpu_rows.measure import Line, microseconds, row

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(os.environ.get("OUT", ROOT / "build" / "gpu"))
SUITE_SECONDS = 150


@row()
def ceilings() -> Iterator[Line]:
    """What the card gives torch: the limits that the rows below are measured against."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    copied = torch.empty_like(source)
    took = microseconds(lambda: copied.copy_(source))
    yield Line("ceilings", f"copy of 256 MiB: {2 * source.nbytes / took / 1e6:.2f} TB/s", took)
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(8192, 8192, device="cuda").to(dtype)
        took = microseconds(lambda a=a: a @ a)
        yield Line("ceilings", f"product of 8192^3 in {dtype}: {2 * 8192**3 / took / 1e6:.0f} TFLOP/s", took)


@row()
def suites() -> Iterator[Line]:
    """The ops' suites with tensors on the card, a file at a time, so that one that hangs costs its own time alone."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        yield Line("suites", "tests/ops", verdict=f"not run: {', '.join(missing)} not installed")
        return
    until = time.monotonic() + SUITE_SECONDS
    for path in sorted((ROOT / "tests").glob("ops/test_*.py")):
        if not re.search(r"\b(device|card)\b", path.read_text()):  # no test of it knows a card
            continue
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cuda and not emulated"]
        log = OUT / f"{path.stem}.log"
        try:
            done = subprocess.run(
                [*command, str(path)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=max(5.0, until - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield Line("suites", path.stem, verdict="FAILED: out of time")
            continue
        log.write_text(done.stdout + done.stderr)
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        verdict = "nothing to run" if done.returncode == 5 else last if done.returncode == 0 else f"FAILED: {last}"
        yield Line("suites", path.stem, verdict=verdict)

"""Every benchmark runs on one thread unless GENREC_BENCH_THREADS says otherwise, and records what it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

os.environ["GENREC_FAST_STRICT"] = "1"  # before the package is imported: a slow twin must not pass for the kernel

import pytest
import torch

from genrec_fast.env import collect

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(int(os.environ.get("GENREC_BENCH_THREADS", "1")))


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, object]) -> None:
    """Adds to the JSON what a reader of a table must know."""
    environment = collect()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    output_json["genrec_fast"] = {
        "device": _processor(),
        "isa": environment.isa,
        "threads": torch.get_num_threads(),
        "versions": environment.versions,
        "commit": commit or "unknown",
        "command": "pytest " + " ".join(config.invocation_params.args),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

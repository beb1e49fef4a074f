"""Every benchmark runs on one thread unless GENREC_BENCH_THREADS says otherwise, and records what it ran on."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["GENREC_FAST_STRICT"] = "1"  # before the package is imported: a slow twin must not pass for the kernel

import pytest
import torch

from genrec_fast.env import collect

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(int(os.environ.get("GENREC_BENCH_THREADS", "1")))


def environment() -> dict[str, Any]:
    """What a reader of a table must know."""
    known = collect()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "device": _processor(),
        "isa": known.isa,
        "threads": torch.get_num_threads(),
        "versions": known.versions,
        "commit": commit or "unknown",
        "command": "pytest " + shlex.join(sys.argv[1:]),
    }


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, object]) -> None:
    output_json["genrec_fast"] = environment()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of whole decodes, which the columns of pytest-benchmark have no room for."""
    rows = getattr(sys.modules.get("decode_report"), "ROWS", [])
    if rows:
        from decode_report import decode_table

        terminalreporter.write_sep("-", "whole decodes")
        terminalreporter.write_line(decode_table(rows))


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

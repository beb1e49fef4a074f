"""Every benchmark runs on one thread unless GENREC_BENCH_THREADS says otherwise, and records what it ran on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["GENREC_FAST_STRICT"] = "1"  # before the package is imported: a slow twin must not pass for the kernel

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from report import MEASURED, decode_table
from timing import environment, where

torch.set_num_threads(int(os.environ.get("GENREC_BENCH_THREADS", "1")))
STARTED = environment()  # the tree may change while a long run goes on


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, object]) -> None:
    output_json["genrec_fast"] = STARTED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of whole decodes, which the columns of pytest-benchmark have no room for."""
    if MEASURED:
        terminalreporter.write_sep("-", "whole decodes")
        terminalreporter.write_line(f"{decode_table(MEASURED)}\n\n{where(STARTED)}")

"""The cards of this machine, the emulated one first, and every place where a kernel runs, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emulator import build as emulator
from genrec_fast.ops import _cuda
from shared.isas import every_isa

__all__ = ["CARDS", "assert_no_race", "every_card", "every_place", "placed"]

CARDS = ["cuda-emulated", *(["cuda"] if torch.cuda.is_available() else [])]


def placed(where: str) -> str:
    """Where tensors go; conftest takes the emulator away when the test ends."""
    if where != "cuda-emulated":
        return where
    _cuda.use_emulator(emulator.run)
    return "cpu"


def every_card() -> Iterator[str]:
    """Where tensors go for each card, for tests that hypothesis calls many times."""
    for where in CARDS:
        yield placed(where)
        _cuda.use_emulator(None)


def every_place() -> Iterator[str]:
    """The same for every instruction set, then every card."""
    for _ in every_isa():
        yield "cpu"
    yield from every_card()


def assert_no_race(program: str) -> None:
    """The Thread Sanitizer finds nothing in the emulated kernels that ``program`` runs; it prints "done" at its end."""
    tsan = subprocess.run(["g++", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout
    if not Path(tsan.strip()).is_absolute():
        pytest.skip("no thread sanitizer here")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    env = {**os.environ, "LD_PRELOAD": tsan.strip(), "TSAN_OPTIONS": "exitcode=66", "PYTHONPATH": path}
    command = ["setarch", "-R", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, check=False)
    assert "done" in done.stdout, done.stderr[-2000:]
    assert ".cuh" not in done.stderr, done.stderr[-2000:]

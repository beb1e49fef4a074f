"""What every test runs under: slow paths are errors, one torch thread, repeatable hypothesis; fixtures of all tests."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

# Before the package is imported: a missing kernel is then an error, not a slow twin that hides it.
os.environ["GENREC_FAST_STRICT"] = "1"

import pytest
import torch
from hypothesis import settings

from genrec_fast.ops import _cuda
from genrec_fast.ops._registry import core
from shared.cards import CARDS, placed

torch.set_num_threads(1)
# No deadline: a shared machine pauses now and then. No database: a run depends on the tree alone.
settings.register_profile(
    "house", deadline=None, max_examples=50, database=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("house")

# What a failure may depend on, said at the head of every run; docs/support.md is a table of these.
FOREIGN = ("torch", "transformers", "numpy", "accelerate", "safetensors", "polars", "peft")


def pytest_report_header() -> str:
    found = []
    for name in FOREIGN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return f"with: Python {platform.python_version()}, {', '.join(found)}"


@pytest.fixture(autouse=True)
def _as_it_was():
    """No test leaves another instruction set, number of threads or an emulated card behind, failed or not."""
    isa, threads = core.active_isa(), torch.get_num_threads()
    yield
    _cuda.use_emulator(None)
    core.select_isa(isa)
    torch.set_num_threads(threads)


@pytest.fixture(params=core.usable_isas())
def isa(request):
    """The test once on every instruction set of this machine."""
    core.select_isa(request.param)
    return request.param


@pytest.fixture
def threads():
    """``threads(n)``: from here on n torch threads, until the test ends."""
    return torch.set_num_threads


@pytest.fixture(params=["cpu", *CARDS])
def device(request):
    """The test once on every device of this machine, and on CPU tensors with the kernels of a card, emulated."""
    return placed(request.param)


@pytest.fixture(params=CARDS)
def card(request):
    """As ``device``, with the kernels of a card alone."""
    return placed(request.param)


@pytest.fixture(params=[*core.usable_isas(), *CARDS])
def place(request):
    """As ``isa``, and then as ``card``: where tensors go."""
    if request.param in CARDS:
        return placed(request.param)
    core.select_isa(request.param)
    return "cpu"

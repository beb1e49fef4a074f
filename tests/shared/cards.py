"""The cards of this machine, the emulated one first, and every place where a kernel runs, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emulator import build as emulator
from genrec_fast.ops import _cuda
from shared.isas import every_isa

__all__ = ["CARDS", "every_card", "every_place", "placed"]

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

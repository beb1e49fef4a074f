"""What a generator makes: a valid call, and how its answer is judged."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genrec_fast

from .compare import differs

PACKAGE = f"{Path(genrec_fast.__file__).parent}/"  # what begins so is ours; a checkout may have the same name


class Rng(random.Random):
    """Repeatable draws, of Python's and of torch's kind."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.torch = torch.Generator()
        self.gentle = False  # whether nothing is altered behind a check's back

    def start(self, seed: int) -> Rng:
        self.seed(seed)
        self.torch.manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
        return self

    def flip(self, probability: float = 0.5) -> bool:
        return self.random() < probability

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.torch).to(dtype)

    def whole(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        """Integers in ``[low, high)``."""
        return torch.randint(low, high, shape, generator=self.torch).to(dtype)

    def mask(self, *shape: int, probability: float = 0.6) -> Tensor:
        return torch.rand(*shape, generator=self.torch) < probability

    def lengths(self, rows: int, longest: int = 6) -> list[int]:
        return [
            self.choice((0, self.randint(0, longest))) if self.flip(0.3) else self.randint(0, longest)
            for _ in range(rows)
        ]

    def offsets(self, lengths: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        chosen = dtype or self.choice((torch.int64, torch.int64, torch.int32))
        return torch.tensor([0, *lengths]).cumsum(0).to(chosen)


class Unasked(Exception):
    """Raised by an oracle: the answer may be right, and its twin would take too long to say so."""


@dataclass
class Case:
    """One valid call.

    Args:
        call: the public function, given ``args`` by name.
        args: valid arguments; mutators replace some of them.
        oracle: the right answer for any arguments that the function accepts; ``None``: only survival is judged.
        judge: ``(found, right, args)`` -> a complaint or ``None``; bit for bit unless given.
        opaque: arguments whose altered contents give an answer that nothing can judge (packed bytes, caches).
        refuses: whether the valid call itself may be refused (a case at a border).
        allows: builtin errors that are the function's documented ones.
        fixed: arguments that are not altered.
        vary: how arguments are altered, in the place of the mutators.
        also: after an answer to altered arguments: one more rule that they must keep, or a complaint.
    """

    call: Callable[..., Any]
    args: dict[str, Any]
    oracle: Callable[..., Any] | None = None
    judge: Callable[[Any, Any, dict[str, Any]], str | None] = field(
        default=lambda found, right, args: differs(found, right)
    )
    opaque: frozenset[str] = frozenset()
    refuses: bool = False
    allows: tuple[type[BaseException], ...] = ()
    fixed: frozenset[str] = frozenset()
    vary: Callable[[Rng, dict[str, Any]], tuple[dict[str, Any], str, str]] | None = None
    also: Callable[..., str | None] | None = None


@dataclass(frozen=True)
class Target:
    """A generator of cases.

    Args:
        name: of the public function.
        make: a case from a generator of numbers.
        covers: names of ``genrec_fast.ops.__all__`` and other public names that its cases go through.
        share: of the calls, beside the other targets' 1.
        calls: made of every case.
        gentle: only what a hand might write by mistake, and no kinds of tensors that nobody would hand to Python.
    """

    name: str
    make: Callable[[Rng], Case]
    covers: tuple[str, ...] = ()
    share: float = 1.0
    calls: int = 48
    gentle: bool = False


TARGETS: dict[str, Target] = {}


def target(
    name: str, *covers: str, share: float = 1.0, calls: int = 48, gentle: bool = False
) -> Callable[[Callable[[Rng], Case]], Callable[[Rng], Case]]:
    """Registers a maker of cases under the public function's name."""

    def register(make: Callable[[Rng], Case]) -> Callable[[Rng], Case]:
        assert name not in TARGETS, name
        TARGETS[name] = Target(name, make, (name, *covers), share, calls, gentle)
        return make

    return register

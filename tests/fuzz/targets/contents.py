"""One number of the contents of tensors."""

from __future__ import annotations

from typing import Any

from genrec_fast import ops
from genrec_fast.ops.reference import fingerprint as twin

from ..case import Case, Rng, target
from .jagged import elements


@target("fingerprint")
def fingerprint(rng: Rng) -> Case:
    shapes: tuple[tuple[int, ...], ...] = ((0,), (1, 0), (1,), (5,), (3, 7), (255,), (256,), (257,), (40, 33), (1100,))
    given = [elements(rng, *rng.choice(shapes)) for _ in range(rng.randint(0, 4))]

    def right(tensors: Any) -> int:
        found: int = twin.fingerprint(list(tensors))
        return found

    return Case(ops.fingerprint, {"tensors": given}, right)

"""The twin of ``ops.rq_decode``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def rq_decode(codes: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """Sum of a row per level, float32, in the order of the levels; ``codes`` has a column per codebook."""
    total = codebooks[0].new_zeros(len(codes), codebooks[0].shape[1]).float()
    for column, codebook in zip(codes.T, codebooks, strict=True):
        total = total + codebook.float()[column.long()]
    return total

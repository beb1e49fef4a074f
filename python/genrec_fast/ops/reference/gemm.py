"""Twins of ``ops.gemm_pack`` and ``ops.gemm``: the packed block is the matrix itself, in the precision asked for."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gemm", "gemm_pack"]


def gemm_pack(b: Tensor, precision: str) -> Tensor:
    """The bytes of ``b`` in ``precision``."""
    return b.to(getattr(torch, precision)).contiguous().view(torch.uint8).flatten()


def gemm(a: Tensor, packed: Tensor, num_columns: int, start: Tensor | None, precision: str) -> Tensor:
    """Products of rounded numbers, summed in float32 (or better)."""
    dtype = getattr(torch, precision)
    b = packed.view(dtype).view(num_columns, a.shape[1])
    out = a.to(dtype).float() @ b.float().T
    return out if start is None else out + start

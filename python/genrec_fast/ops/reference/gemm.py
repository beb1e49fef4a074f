"""Twins of ``ops.gemm_pack`` and ``ops.gemm``: the packed block is the matrix itself, in the precision asked for."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32 ``[M, D]`` -> whole numbers of -127 to 127 and scales ``[M]``: x is about number * scale.

    A scale is NaN where the row holds a NaN or an infinity, 0 where the row is (all but) 0.
    """
    largest = x.abs().amax(1) if x.shape[0] else x.new_zeros(0)
    whole = torch.full_like(largest, 127.0) / largest  # a number over a tensor is its reciprocal times the number
    inverse = torch.where((largest > 1e-30) & largest.isfinite(), whole, 0)
    numbers = (x.nan_to_num(0, 0, 0) * inverse[:, None]).round()
    scales = torch.where(largest.isfinite(), torch.where(inverse > 0, largest / 127, 0), torch.nan)
    return numbers.to(torch.int8), scales


def gemm_pack(b: Tensor, precision: str) -> Tensor:
    """The bytes of ``b`` in ``precision``; in int8 the scales of its rows stand first."""
    if precision == "int8":
        numbers, scales = rounded(b)
        return torch.cat([scales.view(torch.uint8), numbers.view(torch.uint8).flatten()])
    return b.to(getattr(torch, precision)).contiguous().view(torch.uint8).flatten()


def gemm(a: Tensor, packed: Tensor, num_columns: int, start: Tensor | None, precision: str) -> Tensor:
    """Products of rounded numbers, summed in float32 (or better); whole numbers are summed exactly."""
    if precision == "int8":
        scales, b = packed[: 4 * num_columns].view(torch.float32), packed[4 * num_columns :].view(torch.int8)
        numbers, row_scales = rounded(a.float())
        sums = numbers.double() @ b.view(num_columns, a.shape[1]).double().T
        out = sums.float() * (scales * row_scales[:, None])
    else:
        dtype = getattr(torch, precision)
        out = a.to(dtype).float() @ packed.view(dtype).view(num_columns, a.shape[1]).float().T
    return out if start is None else out + start

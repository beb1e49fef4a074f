"""The twin of ``ops.rotary``: plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary(x: Tensor, positions: Tensor, table: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """See ``ops.rotary``: in float32, or in float64 where x is that."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    if weight is not None:
        exact = exact * torch.rsqrt(exact.square().mean(2, keepdim=True) + epsilon) * weight.to(exact.dtype)
    half = table.shape[1] // 2
    turns = table[positions.long()].to(exact.dtype).unsqueeze(1)
    cosine, sine = turns[..., :half], turns[..., half:]
    left, right, rest = exact.split([half, half, x.shape[2] - 2 * half], 2)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine, rest], 2).to(x.dtype)

"""The twin of ``ops.residual_norm``: plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def residual_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, centred: bool, epsilon: float
) -> tuple[Tensor, Tensor]:
    """See ``ops.residual_norm``: sums in float32, or in float64 where x is that; the sum is ``[0, D]`` without any."""
    total = x if added is None else x + added
    exact = total.to(torch.promote_types(x.dtype, torch.float32))
    if centred:
        exact = exact - exact.mean(1, keepdim=True)
    normed = exact * torch.rsqrt(exact.square().mean(1, keepdim=True) + epsilon) * weight.to(exact.dtype)
    if bias is not None:
        normed = normed + bias.to(exact.dtype)
    return normed.to(x.dtype), x.new_empty(0, x.shape[1]) if added is None else total

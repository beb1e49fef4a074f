"""Rotary positions: queries and keys turned by angles that grow with their place."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Turns each pair ``(x[c], x[c + D/2])`` by ``position * base^(-2c/D)``, so that products see distances alone.

    Args:
        x: float ``[E, H, D]``, D even.
        positions: int64 ``[E]``.
        base: of the frequencies.

    Returns:
        ``[E, H, D]`` in x's dtype; angles are float32.

    Raises:
        InvalidValueError: an odd D.

    Source: RoFormer (arXiv:2104.09864, equation 34), halves paired as in GPT-NeoX.
    """
    width = x.shape[2]
    if width % 2:
        raise InvalidValueError(f"rotate: x must have an even number of channels per head, got {width}")
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width
    angles = positions.to(torch.float32)[:, None] * base**-steps
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    left, right = x[..., : width // 2], x[..., width // 2 :]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], 2).to(x.dtype)

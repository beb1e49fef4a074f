"""The order in which the library adds up where a result must be equal on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = 16  # running sums: element d goes to lane d mod 16, then lane j + lane j + 8, + 4, + 2, + 1


def lane_sum(products: Tensor) -> Tensor:
    """Sum of float64 ``[..., D]`` over its last dimension, in lanes."""
    depth = products.shape[-1]
    products = torch.nn.functional.pad(products, (0, -depth % LANES)).unflatten(-1, (-1, LANES))
    total = torch.zeros_like(products[..., 0, :]) if depth else products.new_zeros(*products.shape[:-2], LANES)
    for step in range(products.shape[-2]):
        total = total + products[..., step, :]
    half = LANES // 2
    while half:
        total = total[..., :half] + total[..., half:]
        half //= 2
    return total[..., 0]

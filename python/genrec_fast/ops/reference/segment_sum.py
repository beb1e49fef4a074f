"""Twins of ``segment_sum``'s ops in plain torch; offsets have been checked."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(rows: Tensor, offsets: Tensor) -> Tensor:
    """``[E, ...]``: ``rows[r]`` for every element of row r."""
    return rows[torch.repeat_interleave(offsets.diff())]


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """``[B, ...]``, at least float32: the sum of every row's elements, one after the other."""
    exact = torch.promote_types(values.dtype, torch.float32)
    out = torch.zeros((offsets.shape[0] - 1, *values.shape[1:]), dtype=exact, device=values.device)
    return out.index_add(0, torch.repeat_interleave(offsets.diff()), values.to(exact))

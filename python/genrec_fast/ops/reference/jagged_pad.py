"""Twins of ``jagged_pad``'s ops in plain torch; offsets have been checked."""

from __future__ import annotations

import torch
from torch import Tensor


def _places(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """int64 ``[E]`` twice: the row of every element, and its place there."""
    rows = torch.repeat_interleave(offsets.diff())
    return rows, torch.arange(len(rows), device=offsets.device) - offsets[rows]


def to_padded(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    """``[B, max_len, ...]``: element i of row r at ``[r, i]``, ``padding`` elsewhere."""
    rows, places = _places(offsets)
    kept = places < max_len
    out = values.new_full((offsets.shape[0] - 1, max_len, *values.shape[1:]), padding)
    return out.index_put((rows[kept], places[kept]), values[kept])


def from_padded(dense: Tensor, offsets: Tensor, total: int) -> Tensor:
    """``[E, ...]``: ``dense[r, i]`` for element i of row r; 0 where ``dense`` ends before."""
    rows, places = _places(offsets)
    kept = places < dense.shape[1]
    out = dense.new_zeros((total, *dense.shape[2:]))
    return out.index_put((kept.nonzero()[:, 0],), dense[rows[kept], places[kept]])

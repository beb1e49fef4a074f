"""Twins of ``jagged_pack``'s ops in plain torch; offsets have been checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["from_padded", "join", "part", "segment_sum", "spread", "to_padded"]


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


def spread(rows: Tensor, offsets: Tensor) -> Tensor:
    """``[E, ...]``: ``rows[r]`` for every element of row r."""
    return rows[_places(offsets)[0]]


def join(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    """Row r of every part, then row r + 1 of every part."""
    pieces = [x.split(o.diff().tolist()) for x, o in zip(values, offsets, strict=True)]
    rows = [piece for row in zip(*pieces, strict=True) for piece in row]
    return torch.cat(rows) if rows else values[0].clone()


def part(joined: Tensor, offsets: Sequence[Tensor]) -> list[Tensor]:
    """What ``join`` joined."""
    lengths = torch.stack([o.diff() for o in offsets], 1).flatten()
    pieces = joined.split(lengths.tolist())
    return [torch.cat([joined[:0], *pieces[i :: len(offsets)]]) for i in range(len(offsets))]


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """``[B, ...]``, at least float32: the sum of every row's elements, one after the other."""
    exact = torch.promote_types(values.dtype, torch.float32)
    out = torch.zeros((offsets.shape[0] - 1, *values.shape[1:]), dtype=exact, device=values.device)
    return out.index_add(0, _places(offsets)[0], values.to(exact))

"""Twins of ``jagged_join``'s ops in plain torch; offsets have been checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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

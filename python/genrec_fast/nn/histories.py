"""What every backbone over items does at its borders: a start in front of each history, states picked at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError
from genrec_fast.nn.packed import Packing, row_positions
from genrec_fast.types import Batch, Jagged

__all__ = ["at_last", "at_targets", "check_length", "with_start"]


def check_length(op: str, batch: Batch, max_items: int) -> None:
    """Raises InvalidValueError where a history is longer than ``max_items``."""
    lengths = batch.items.lengths
    if lengths.numel() and int(lengths.max()) > max_items:
        raise InvalidValueError(f"{op}: histories must have at most max_items = {max_items} items, got {lengths.max()}")


def with_start(values: Tensor, items: Jagged, start: Tensor, max_items: int) -> tuple[Tensor, Packing]:
    """Packed rows with a start vector in front of each, so that an empty history has a state, too.

    Args:
        values: ``[E, D]``, aligned with ``items.values``.
        items: B rows.
        start: ``[D]``.
        max_items: the longest history that can be.

    Returns:
        ``[E + B, D]`` and its rows.
    """
    starts = torch.arange(len(items) + 1, device=values.device)
    offsets = items.offsets + starts
    places = torch.arange(values.shape[0], device=values.device) + 1
    places = places + torch.repeat_interleave(starts[:-1], items.lengths, output_size=values.shape[0])
    out = values.new_empty(values.shape[0] + len(items), values.shape[1]).index_copy(0, places, values)
    out = out.index_copy(0, offsets[:-1], start.to(values.dtype).expand(len(items), -1))
    return out, Packing(offsets, row_positions(offsets), max_items + 1)


def at_targets(states: Tensor, batch: Batch) -> Tensor:
    """``states [E + B, D]`` of ``with_start`` -> ``[M, D]`` at the positions that are asked for."""
    positions = batch.target_positions
    return states[positions + torch.searchsorted(batch.items.offsets, positions, right=True)]


def at_last(states: Tensor, batch: Batch) -> Tensor:
    """``states [E + B, D]`` of ``with_start`` -> ``[B, D]`` after each whole history."""
    return states[batch.items.offsets[1:] + torch.arange(len(batch), device=states.device)]

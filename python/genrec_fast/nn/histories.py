"""From jagged histories to padded rows and back: what every backbone over items does at its borders."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError
from genrec_fast.types import Batch, Jagged

__all__ = ["at_last", "at_targets", "check_length", "with_start"]


def check_length(op: str, batch: Batch, max_items: int) -> None:
    """Raises InvalidValueError where a history is longer than ``max_items``."""
    lengths = batch.items.lengths
    if lengths.numel() and int(lengths.max()) > max_items:
        raise InvalidValueError(f"{op}: histories must have at most max_items = {max_items} items, got {lengths.max()}")


def with_start(values: Tensor, items: Jagged, start: Tensor) -> Tensor:
    """Pads and puts a start vector in front, so that an empty history has a state, too.

    Args:
        values: ``[E, D]``, aligned with ``items.values``.
        items: B rows, the longest of length S.
        start: ``[D]``.

    Returns:
        ``[B, S + 1, D]``, zeros behind each row's end. Causal blocks may run over it as it is: no real position sees
        what stands behind it.
    """
    lengths = items.lengths
    longest = int(lengths.max()) if lengths.numel() else 0
    rows = items.row_index()
    columns = torch.arange(values.shape[0], device=values.device) - items.offsets[rows] + 1
    padded = values.new_zeros(len(items), longest + 1, values.shape[1])
    padded[:, 0] = start.to(values.dtype)
    return padded.index_put((rows, columns), values)


def at_targets(states: Tensor, batch: Batch) -> Tensor:
    """``states [B, S + 1, D]`` of ``with_start`` -> ``[M, D]`` at the positions that are asked for."""
    positions = batch.target_positions
    rows = torch.searchsorted(batch.items.offsets, positions, right=True) - 1
    return states[rows, positions - batch.items.offsets[rows] + 1]


def at_last(states: Tensor, batch: Batch) -> Tensor:
    """``states [B, S + 1, D]`` of ``with_start`` -> ``[B, D]`` after each whole history."""
    return states[torch.arange(len(batch), device=states.device), batch.items.lengths]

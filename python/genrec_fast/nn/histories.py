"""What every backbone over items does at its borders: a start in front of each history, states picked at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.nn.packed import Packing, Past, row_positions


def check_length(op: str, batch: Batch, max_items: int) -> None:
    """Raises InvalidValueError where a history is longer than ``max_items``."""
    lengths = batch.items.lengths
    if lengths.numel() and int(lengths.max()) > max_items:
        raise InvalidValueError(f"{op}: histories must have at most max_items = {max_items} items, got {lengths.max()}")


def codes_of(op: str, batch: Batch, max_items: int) -> Tensor:
    """``codes [E, L]`` of a batch.

    Raises:
        InvalidValueError: a history longer than ``max_items``, or a batch that passed no layout.
    """
    check_length(op, batch, max_items)
    if batch.codes is None:
        raise InvalidValueError(f"{op}: batch must have codes (let it pass a layout first), got None")
    return batch.codes


def codes_of_targets(op: str, batch: Batch, *, last: bool) -> Tensor:
    """``target_codes [M, L]`` of a batch.

    Args:
        op: whose error it is.
        batch: that passed a layout.
        last: whether every history must have one target, at its last position.

    Raises:
        InvalidValueError: a batch that passed no layout, or targets elsewhere.
    """
    if batch.target_codes is None:
        raise InvalidValueError(f"{op}: batch must have target_codes (let it pass a layout first), got None")
    if last and not torch.equal(batch.target_positions, batch.items.offsets[1:] - 1):
        raise InvalidValueError(
            f"{op}: every history must have one target, at its last position (train it with targets='last'), "
            f"got {batch.target_positions.numel()} targets for {len(batch)} histories"
        )
    return batch.target_codes


def with_start(
    values: Tensor, items: Jagged, start: Tensor, max_items: int, past: Past | None = None
) -> tuple[Tensor, Packing]:
    """Packed rows with a start vector in front of each, so that an empty history has a state, too.

    Args:
        values: ``[E, D]``, aligned with ``items.values``.
        items: B rows.
        start: ``[D]``.
        max_items: the longest history that can be.
        past: what is known of the rows, their starts included; rows that it knows get no other start.

    Returns:
        ``[E + B, D]`` (fewer by the rows that are known) and its rows.

    Raises:
        InvalidValueError: a row that is longer than ``max_items`` with its past.
    """
    begun = torch.zeros_like(items.lengths) if past is None else (past.lengths > 0).long()
    starts = offsets_of(1 - begun)  # how many stand before row b and its items
    offsets = items.offsets + starts
    places = torch.arange(values.shape[0], device=values.device)
    places = places + torch.repeat_interleave(starts[1:], items.lengths, output_size=values.shape[0])
    fresh = offsets[:-1][begun == 0]
    out = values.new_empty(values.shape[0] + fresh.shape[0], values.shape[1]).index_copy(0, places, values)
    out = out.index_copy(0, fresh, start.to(values.dtype).expand(fresh.shape[0], -1))
    if past is None:
        return out, Packing(offsets, row_positions(offsets), max_items + 1)
    whole = offsets.diff() + past.lengths
    if whole.numel() and int(whole.max()) > max_items + 1:
        raise InvalidValueError(f"with_start: rows must have at most {max_items} items, got {int(whole.max()) - 1}")
    positions = row_positions(offsets, past.lengths)
    return out, Packing(offsets, positions, max_items + 1, past=past, kv_offsets=offsets_of(whole))


def at_targets(states: Tensor, batch: Batch) -> Tensor:
    """``states [E + B, D]`` of ``with_start`` -> ``[M, D]`` at the positions that are asked for."""
    positions = batch.target_positions
    return states.index_select(0, positions + torch.searchsorted(batch.items.offsets, positions, right=True))


def at_last(states: Tensor, batch: Batch) -> Tensor:
    """``states [E + B, D]`` of ``with_start`` -> ``[B, D]`` after each whole history."""
    return states.index_select(0, batch.items.offsets[1:] + torch.arange(len(batch), device=states.device))

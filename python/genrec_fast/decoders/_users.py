"""What decoders share: checks of the arguments, and some users of a batch as a batch of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.checks import check_integers, shown, whole_number
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.types import Batch, Jagged

__all__ = ["check_filter", "check_k", "check_rows", "select_filter", "select_rows", "select_users"]


def select_rows(rows: Jagged, chosen: Tensor) -> tuple[Jagged, Tensor]:
    """The rows ``chosen`` (int64 ``[m]``) of ``rows``, and int64 positions of their values in ``rows.values``."""
    lengths = rows.lengths[chosen]
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    starts = torch.repeat_interleave(rows.offsets[:-1][chosen] - offsets[:-1], lengths)
    positions = starts + torch.arange(starts.numel(), device=starts.device)
    return Jagged(rows.values[positions], offsets), positions


def select_users(batch: Batch, chosen: Tensor) -> Batch:
    """The users ``chosen`` (int64 ``[m]``, positions in the batch) with all that a search reads; no targets."""
    items, positions = select_rows(batch.items, chosen)
    return Batch(
        items,
        users=None if batch.users is None else batch.users[chosen],
        codes=None if batch.codes is None else batch.codes[positions],
        features=None if batch.features is None else batch.features[positions],
        timestamps=None if batch.timestamps is None else batch.timestamps[positions],
        target_timestamps=None if batch.target_timestamps is None else batch.target_timestamps[positions],
    )


def select_filter(
    allowed: Tensor | None, exclude: Jagged | None, chosen: Tensor
) -> tuple[Tensor | None, Jagged | None]:
    """The part of a filter that belongs to the users ``chosen``; one ``allowed`` for all users stays as it is."""
    if allowed is not None and allowed.dim() == 2 and allowed.shape[0] > 1:
        allowed = allowed[chosen]
    return allowed, None if exclude is None else select_rows(exclude, chosen)[0]


def check_k(op: str, k: Any, num_beams: Any = None) -> tuple[int, int]:
    """K and the number of beams (k where there is none) as ints: both are positive, and the beams can hold k results.

    Raises:
        InvalidTypeError: they are no whole numbers.
        InvalidValueError: they are out of range.
    """
    k = whole_number(op, "k", k)
    beams = k if num_beams is None else whole_number(op, "num_beams", num_beams)
    if beams < k:
        raise InvalidValueError(f"{op}: num_beams must be at least k = {k}, got {beams}")
    return k, beams


def check_filter(op: str, users: int, num_items: int, allowed: Tensor | None, exclude: Jagged | None) -> None:
    """A filter has an entry or a row for each user and item.

    Raises:
        InvalidTypeError: allowed is not bool, or exclude no Jagged of item ids.
        InvalidValueError: another shape, or another number of users.
    """
    if allowed is not None:
        if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
            what = str(allowed.dtype).removeprefix("torch.") if isinstance(allowed, Tensor) else shown(allowed)
            raise InvalidTypeError(f"{op}: allowed must be bool, got {what}")
        if allowed.is_nested or allowed.layout != torch.strided or allowed.is_meta:
            raise InvalidTypeError(f"{op}: allowed must be a dense tensor with data, got {allowed.layout}")
        if tuple(allowed.shape) not in ((num_items,), (1, num_items), (users, num_items)):
            raise InvalidValueError(
                f"{op}: allowed must be [{num_items}] or [{users}, {num_items}], got {list(allowed.shape)}"
            )
    if exclude is not None:
        check_rows(op, "exclude", exclude, users)


def check_rows(op: str, name: str, rows: Any, users: int) -> Jagged:
    """``rows``, a Jagged of item ids with one row for each of ``users``.

    Raises:
        InvalidTypeError: it is none.
        InvalidValueError: another number of rows, or offsets that were altered since it was made.
    """
    if not isinstance(rows, Jagged):
        raise InvalidTypeError(f"{op}: {name} must be Jagged, got {shown(rows)}")
    values = check_integers(op, name, rows.values, "[E]")
    offsets = check_integers(op, f"{name}.offsets", rows.offsets, "[B + 1]")
    if values.dim() != 1:
        raise InvalidValueError(f"{op}: {name} must hold item ids [E], got {list(values.shape)}")
    if offsets.dim() != 1 or offsets.numel() != users + 1:
        got = max(offsets.numel() - 1, 0) if offsets.dim() == 1 else list(offsets.shape)
        raise InvalidValueError(f"{op}: {name} must have one row for each of {users} users, got {got}")
    return Jagged(values, offsets)  # checks them as they are now

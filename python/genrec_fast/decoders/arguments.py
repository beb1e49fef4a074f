"""Checks of what decoders are asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, check_integers, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged


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


def check_excluded(op: str, exclude: Jagged | None, num_items: int) -> None:
    """``exclude``, which ``check_filter`` has seen, holds item ids.

    Raises:
        InvalidValueError: an id out of range.
    """
    if exclude is None or not exclude.values.numel():
        return
    low, high = (int(v) for v in exclude.values.aminmax())
    if low < 0 or high >= num_items:
        wrong = low if low < 0 else high
        raise InvalidValueError(f"{op}: exclude must hold item ids in [0, {num_items}), got {wrong}")


def seed_of(op: str, asked: Any, own: int, least: int = INT64[0]) -> int:
    """The seed of a search: the one that was asked for, or the decoder's own, a whole number of 64 bits.

    Raises:
        InvalidTypeError: it is none.
        InvalidValueError: below ``least``, or of more bits.
    """
    return whole_number(op, "seed", own if asked is None else asked, least, INT64[1])


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

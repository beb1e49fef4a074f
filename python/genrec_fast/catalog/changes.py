"""Checks of what a trie is asked for, or changed by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, check_integers, sequence, whole_number
from genrec_fast.base.errors import InvalidValueError


def checked_codes(op: str, sizes: tuple[int, ...], new_codes: Any) -> Tensor:
    """int32 ``[M, L]`` on the CPU.

    Raises:
        InvalidTypeError: no integers.
        InvalidValueError: another shape, or a code that is not below its codebook's size.
    """
    if not isinstance(new_codes, Tensor):
        try:
            new_codes = torch.as_tensor(new_codes)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # rows of unequal length, other things
            raise InvalidValueError(f"{op}: new_codes must be integers [M, {len(sizes)}], got {error}") from error
        if not new_codes.numel():
            new_codes = new_codes.to(torch.int32).reshape(0, len(sizes))
    codes = check_integers(op, "new_codes", new_codes, f"[M, {len(sizes)}]").cpu()
    if codes.dim() != 2 or codes.shape[1] != len(sizes):
        raise InvalidValueError(f"{op}: new_codes must be [M, {len(sizes)}], got {list(codes.shape)}")
    wide = codes.to(torch.int64)
    outside = (wide < 0) | (wide >= torch.tensor(sizes))
    if bool(outside.any()):
        item, level = outside.nonzero()[0].tolist()
        raise InvalidValueError(
            f"{op}: new_codes must be in [0, {sizes[level]}) at level {level}, got {int(wide[item, level])} "
            f"for item {item} of the new ones"
        )
    return wide.to(torch.int32)


def checked_items(num_items: int, items: Any) -> Tensor:
    """int64 ids, each of an item.

    Raises:
        InvalidTypeError: no integers.
        InvalidValueError: an id out of range.
    """
    if not isinstance(items, Tensor):
        ids = sequence("without", "items", items, "item ids")
        items = torch.tensor([whole_number("without", "items", item, *INT64) for item in ids], dtype=torch.int64)
    found = check_integers("without", "items", items, "[M]").reshape(-1).to(torch.int64)
    outside = (found < 0) | (found >= num_items)
    if bool(outside.any()):
        raise InvalidValueError(f"without: items must be in [0, {num_items}), got {int(found[outside][0])}")
    return found


def checked_rows(rows: Tensor, num_rows: int) -> Tensor:
    """int64, flat: integers, each a row of the trie.

    Raises:
        InvalidValueError: a row out of range.
    """
    flat = rows.reshape(-1).to(torch.int64)
    outside = (flat < 0) | (flat >= num_rows)
    if bool(outside.any()):
        raise InvalidValueError(
            f"Trie.items: rows must be in [0, {num_rows}), got {int(flat[outside][0])} at {int(outside.nonzero()[0])}"
        )
    return flat

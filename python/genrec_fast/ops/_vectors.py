"""The checks that the ops on vectors and codebooks share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops._arguments import require_tensors, sequence

__all__ = ["FLOATS", "require_codebooks", "require_finite", "require_matrix"]

FLOATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # dtype -> RqElement of csrc/ops/rq_encode.h


def require_matrix(op: str, name: str, value: Tensor, shape: str, device: torch.device | None = None) -> None:
    """Raises unless ``value`` is a dense float matrix, on ``device`` where one is named.

    Raises:
        InvalidTypeError: not a tensor, not dense, or not float32, bfloat16 or float16.
        InvalidValueError: not of two dimensions, or on another device.
    """
    require_tensors(op, None, **{name: value})
    if value.dtype not in FLOATS:
        raise InvalidTypeError(f"{op}: {name} must be float32, bfloat16 or float16 {shape}, got {value.dtype}")
    if value.dim() != 2:
        raise InvalidValueError(f"{op}: {name} must be {shape}, got {list(value.shape)}")
    if device is not None and value.device != device:
        raise InvalidValueError(f"{op}: {name} must be on {device} like the rest, got {value.device}")


def require_finite(op: str, name: str, value: Tensor) -> None:
    """Raises unless every element is finite, naming the first row where one is not.

    Raises:
        InvalidValueError: NaN or infinity.
    """
    if bool(value.sum(dtype=torch.float32).isfinite()):  # one pass, and no NaN or infinity can hide in it
        return
    finite = value.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise InvalidValueError(f"{op}: {name} must be finite, got NaN or infinity in row {row}")


def require_codebooks(op: str, codebooks: Any, device: torch.device) -> list[Tensor]:
    """The codebooks as a list: at least one, each a float ``[K_l, D]`` with K_l at least 1, of one D of at least 1.

    Raises:
        InvalidTypeError: not a sequence of dense float32, bfloat16 or float16 tensors.
        InvalidValueError: none, a wrong shape, or another device.
    """
    books = sequence(op, "codebooks", codebooks)
    if not books:
        raise InvalidValueError(f"{op}: codebooks must hold at least one level, got none")
    for level, book in enumerate(books):
        require_matrix(op, f"codebooks[{level}]", book, "[K, D]", device)
        if min(book.shape) < 1 or book.shape[1] != books[0].shape[1]:
            depth = books[0].shape[1] if level else "D"
            raise InvalidValueError(
                f"{op}: codebooks[{level}] must be [K, {depth}] with at least one of each, got {list(book.shape)}"
            )
    return books

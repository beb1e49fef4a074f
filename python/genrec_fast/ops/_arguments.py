"""The checks that every op makes of what kind of thing an argument is: the kernels read raw addresses."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError

__all__ = ["require_tensors", "whole_number"]


def require_tensors(op: str, device: torch.device | None, **tensors: Any) -> None:
    """Raises unless every argument is a strided tensor on ``device`` (``None``: anywhere that has data).

    Raises:
        InvalidTypeError: not a tensor, or a sparse, quantized or nested one.
        InvalidValueError: on another device: its address would mean nothing there.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InvalidTypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            kind = "quantized" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
            raise InvalidTypeError(f"{op}: {name} must be a dense tensor, got {kind}")
        if device is None and tensor.device.type == "meta":
            raise InvalidValueError(f"{op}: {name} must have data, got a tensor on meta")
        if device is not None and tensor.device != device:
            raise InvalidValueError(f"{op}: {name} must be on {device} like the trie, got {tensor.device}")


def whole_number(op: str, name: str, value: Any) -> int:
    """``value`` as an int.

    Raises:
        InvalidTypeError: it is not a whole number by type (2.0 is not).
    """
    if isinstance(value, int):
        return value
    try:
        return operator.index(value)
    except TypeError as error:
        raise InvalidTypeError(f"{op}: {name} must be an int, got {value!r:.40}") from error

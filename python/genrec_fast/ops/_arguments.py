"""The checks that every op makes of what kind of thing an argument is: the kernels read raw addresses."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_fast.checks import is_truth
from genrec_fast.errors import InvalidTypeError, InvalidValueError, UnsupportedError

__all__ = [
    "FLOAT32",
    "choice",
    "device_of",
    "flag",
    "numbers",
    "readable",
    "real_number",
    "require_tensors",
    "sequence",
    "shown",
    "whole_number",
]

_OWN_DATA = (Tensor, torch.nn.Parameter)
FLOAT32 = 3.4028234663852886e38
INT64 = (-(2**63), 2**63 - 1)


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
        if type(tensor) in _OWN_DATA and tensor.is_cpu and not torch.compiler.is_compiling() and _is_freed(tensor):
            raise InvalidValueError(f"{op}: {name} must have data, got {shown(tensor)} whose storage was freed")


def _is_freed(tensor: Tensor) -> bool:
    """Whether its storage was taken away, as FSDP does: torch itself would read at address 0."""
    try:
        return not tensor.data_ptr() and tensor.numel() > 0
    except RuntimeError as error:  # torch's, under vmap
        raise UnsupportedError("ops: a tensor must have data of its own, got one under a transform of torch") from error


def readable(tensor: Tensor) -> Tensor:
    """The tensor as a kernel may read it: its elements end to end, as they are meant, each at its own alignment.

    ``z.conj().imag`` is held with the opposite sign, and ``torch.frombuffer`` gives any address: such a tensor is
    copied. torch's dispatcher undoes the sign by itself; this is for the calls that go around it.

    Raises:
        InvalidValueError: its storage was taken away.
    """
    if _is_freed(tensor):
        raise InvalidValueError(f"ops: a tensor must have data, got {shown(tensor)} whose storage was freed")
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def whole_number(op: str, name: str, value: Any, least: int = INT64[0], most: int = INT64[1]) -> int:
    """``value`` as an int in ``[least, most]``; without limits, one of 64 bits.

    Raises:
        InvalidTypeError: it is not a whole number by type (2.0 and ``True`` are not).
        InvalidValueError: it is out of range.
    """
    if type(value) is int:
        number = value
    else:
        try:
            if is_truth(value):
                raise TypeError
            number = operator.index(value)
        except (TypeError, ValueError, RuntimeError) as error:  # torch's, for a tensor of no or of many numbers
            raise InvalidTypeError(f"{op}: {name} must be an int, got {shown(value)}") from error
    if least <= number <= most:
        return number
    if number < least:
        rule = "at least -2^63" if least == INT64[0] else f"at least {least}"
    else:
        rule = "below 2^63" if most == INT64[1] else f"at most {most}"
    raise InvalidValueError(f"{op}: {name} must be {rule}, got {shown(number)}")


def numbers(op: str, name: str, values: Any, least: int = INT64[0], most: int = INT64[1]) -> list[int]:
    """A sequence of ``whole_number``.

    Raises:
        InvalidTypeError: not a sequence, or one of other things.
        InvalidValueError: one of them is out of range.
    """
    if type(values) is tuple and all(type(value) is int and least <= value <= most for value in values):
        return list(values)  # as most often: a trie's
    return [whole_number(op, name, value, least, most) for value in sequence(op, name, values, "ints")]


def sequence(op: str, name: str, values: Any, of: str = "tensors") -> list[Any]:
    """The entries of a list, a tuple, or whatever else has an order that it can be walked through in.

    Raises:
        InvalidTypeError: it cannot be.
    """
    try:
        if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | Set | type):
            return list(values)
    except TypeError as error:  # a tensor of no dimension
        raise InvalidTypeError(f"{op}: {name} must be a sequence of {of}, got {shown(values)}") from error
    raise InvalidTypeError(f"{op}: {name} must be a sequence of {of}, got {shown(values)}")


def real_number(op: str, name: str, value: Any, most: float = sys.float_info.max) -> float:
    """``value`` as a float of at most ``most`` in either direction (``FLOAT32``: what a kernel keeps it in).

    Raises:
        InvalidTypeError: it is no number by type (``True`` is not; a tensor of one number is).
        InvalidValueError: NaN, infinite, or too large for a float.
    """
    kind = f"{op}: {name} must be a number"
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.device.type == "meta" or value.dtype == torch.bool or value.is_complex():
            raise InvalidTypeError(f"{kind}, got {shown(value)}")
        value = value.item()
    if isinstance(value, str | bytes) or is_truth(value):
        raise InvalidTypeError(f"{kind}, got {shown(value)}")
    try:
        number = float(value)
    except TypeError as error:
        raise InvalidTypeError(f"{kind}, got {shown(value)}") from error
    except (OverflowError, ValueError) as error:
        raise InvalidValueError(f"{op}: {name} must be a finite number, got {shown(value)}") from error
    if not abs(number) <= most:
        raise InvalidValueError(f"{op}: {name} must be a finite number, got {number}")
    return number


def device_of(op: str, name: str, value: Any) -> torch.device:
    """``value`` as torch's device.

    Raises:
        InvalidTypeError: it names none.
    """
    try:
        return torch.device(value)
    except (TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise InvalidTypeError(f"{op}: {name} must be one of torch's devices, got {shown(value)}") from error


def flag(op: str, name: str, value: Any) -> bool:
    """``value`` as a bool.

    Raises:
        InvalidTypeError: it is neither ``True`` nor ``False``.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InvalidTypeError(f"{op}: {name} must be True or False, got {shown(value)}")


def choice(op: str, name: str, value: Any, options: Sequence[str]) -> str:
    """``value``, one of ``options``.

    Raises:
        InvalidValueError: it is not.
    """
    if isinstance(value, str) and value in options:
        return value
    *front, last = map(repr, options)
    raise InvalidValueError(f"{op}: {name} must be {', '.join(front)} or {last}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value as a message names it: short, and without reading what cannot be read."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}" if value.layout == torch.strided and not value.is_nested else "a tensor"
    if isinstance(value, int) and abs(value) >= 1 << 128:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.40}" if isinstance(value, str | int | float | bytes | type(None)) else type(value).__name__

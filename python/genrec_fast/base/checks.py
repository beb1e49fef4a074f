"""Checks that are made in many places, said in one way: numbers, choices and tensors."""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError

INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)  # torch counts with no others

_LARGEST = 1.7e308  # an int can be beyond every float
MOST = (1 << 31) - 1  # of any count: torch takes sizes that no memory holds for a fault of its own
INT64 = (-(1 << 63), (1 << 63) - 1)
FLOAT32 = 3.4028234663852886e38  # the largest
_OWN_DATA = (Tensor, torch.nn.Parameter)
MOST_BYTES = 1 << 47  # what a process of 64 bits can address
WHOLE_FLOATS = 1 << 53  # beyond, a float stands for several whole numbers


def check_number(op: str, name: str, value: Any, *, above: float | None = None, least: float | None = None) -> None:
    """A finite number above one bound or at least the other.

    Raises:
        InvalidTypeError: no number.
        InvalidValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{op}: {name} must be a number, got {shown(value)}")
    low = (above is not None and value <= above) or (least is not None and value < least)
    if low or not -_LARGEST < value < _LARGEST:
        rule = f"above {above:g} and finite" if above is not None else "finite"
        rule = rule if above is not None or least is None else f"at least {least:g} and finite"
        raise InvalidValueError(f"{op}: {name} must be {rule}, got {shown(value)}")


def whole_number(op: str, name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """``value`` as an int in ``[least, most]`` (``*INT64``: any of 64 bits).

    Raises:
        InvalidTypeError: no whole number by type: 2.0 and True are none.
        InvalidValueError: out of range.
    """
    if type(value) is int:
        number = value
    else:
        try:
            if is_truth(value):
                raise TypeError
            number = operator.index(value)  # numpy's and torch's whole numbers, too
        except (TypeError, ValueError, RuntimeError) as error:  # torch's, for a tensor of no or of many numbers
            raise InvalidTypeError(f"{op}: {name} must be an int, got {shown(value)}") from error
    if least <= number <= most:
        return number
    if number < least:
        rule = "at least -2^63" if least == INT64[0] else f"at least {least}"
    else:
        rule = "below 2^63" if most == INT64[1] else f"at most {most}"
    raise InvalidValueError(f"{op}: {name} must be {rule}, got {shown(number)}")


def as_whole(value: Any) -> Any:
    """A float without a fraction is the whole number that JSON writes as ``12.0``; anything else stays as it is."""
    whole = isinstance(value, float) and abs(value) < WHOLE_FLOATS and value.is_integer()
    return int(value) if whole else value


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


def choice(op: str, name: str, value: Any, options: Sequence[str]) -> str:
    """``value``, one of ``options``.

    Raises:
        InvalidValueError: it is not.
    """
    if isinstance(value, str) and value in options:
        return value
    *front, last = map(repr, options)
    raise InvalidValueError(f"{op}: {name} must be {', '.join(front)} or {last}, got {shown(value)}")


def device_of(op: str, name: str, value: Any) -> torch.device:
    """``value`` as torch's device.

    Raises:
        InvalidTypeError: it names none.
    """
    try:
        return torch.device(value)
    except (TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise InvalidTypeError(f"{op}: {name} must be one of torch's devices, got {shown(value)}") from error


def is_truth(value: Any) -> bool:
    """Whether a value is a bool: Python's, numpy's (which older numpys take for a number) or a tensor of them."""
    return isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) in (torch.bool, np.dtype(bool))


def check_flag(op: str, name: str, value: Any) -> bool:
    """``value`` as a bool.

    Raises:
        InvalidTypeError: it is not.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InvalidTypeError(f"{op}: {name} must be a bool, got {shown(value)}")


def check_weights(op: str, name: str, values: tuple[float, ...]) -> None:
    """Weights of a mean, none of them or all: finite, at least 0 and not all 0.

    Raises:
        InvalidValueError: they are not.
    """
    if values and not (all(0 <= value < _LARGEST for value in values) and 0 < sum(values) < _LARGEST):
        raise InvalidValueError(f"{op}: {name} must be finite, at least 0 and not all 0, got {shown(values)}")
    if values and not 1e-30 <= sum(values) <= 1e30:  # they weigh in float32
        raise InvalidValueError(f"{op}: {name} must have a sum from 1e-30 to 1e30, got {shown(values)}")


def check_heads(op: str, width: int, num_heads: int) -> None:
    """Every head has the same channels.

    Raises:
        InvalidValueError: num_heads does not divide width.
    """
    if width % num_heads:
        raise InvalidValueError(f"{op}: num_heads must divide width = {width}, got {num_heads}")


def check_integers(op: str, name: str, value: Any, shape: str) -> Tensor:
    """``value``, a dense tensor of integers that has data, its numbers held as they are meant.

    torch indexes with what a tensor holds, and one with the negative bit holds its numbers' opposites. ``shape`` is
    what the message calls for.

    Raises:
        InvalidTypeError: it is not: bool, complex and floats that hold whole numbers are none either.
    """
    if not isinstance(value, Tensor):
        raise InvalidTypeError(f"{op}: {name} must be integers {shape}, got {type(value).__name__}")
    if value.dtype not in INTEGERS:
        raise InvalidTypeError(f"{op}: {name} must be integers {shape}, got {value.dtype}")
    check_dense(op, name, value)
    return value.resolve_neg()


def check_dense(op: str, name: str, value: Any) -> None:
    """A dense tensor that has data.

    Raises:
        InvalidTypeError: it is not: sparse, nested, quantized, on meta, or its storage was taken away.
    """
    if not isinstance(value, Tensor):
        raise InvalidTypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")
    got = None
    if value.is_nested:
        got = "a nested tensor"
    elif value.layout != torch.strided or value.is_meta or value.is_quantized:
        got = f"{value.layout} on {value.device}" if not value.is_quantized else "a quantized tensor"
    elif type(value) is Tensor and value.is_cpu and value.numel() and not torch.compiler.is_compiling():
        got = None if value.data_ptr() else "one whose storage was taken away"  # torch would read at address 0
    if got is not None:
        raise InvalidTypeError(f"{op}: {name} must be a dense tensor with data, got {got}")


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
        if type(tensor) in _OWN_DATA and tensor.is_cpu and not torch.compiler.is_compiling() and is_freed(tensor):
            raise InvalidValueError(f"{op}: {name} must have data, got {shown(tensor)} whose storage was freed")


def is_freed(tensor: Tensor) -> bool:
    """Whether its storage was taken away, as FSDP does: torch itself would read at address 0."""
    try:
        return not tensor.data_ptr() and tensor.numel() > 0
    except RuntimeError as error:  # torch's, under vmap
        raise UnsupportedError("ops: a tensor must have data of its own, got one under a transform of torch") from error


def _physical_bytes() -> int:
    try:
        return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), MOST_BYTES)
    except (AttributeError, ValueError, OSError):  # not this system
        return MOST_BYTES


# Linux grants more than there is, and ends the process when it is used: a result beyond all memory is refused before.
PHYSICAL_BYTES = _physical_bytes()


def require_room(op: str, name: str, shape: Sequence[int], size: int = 4) -> None:
    """Raises where ``shape`` elements of ``size`` bytes are more than the machine has.

    Raises:
        InvalidValueError: no machine could address them, or a size is negative.
        UnsupportedError: this machine has not so much memory.
    """
    if min(shape, default=0) < 0:
        raise InvalidValueError(f"{op}: {name} must have sizes of at least 0, got {list(shape)}")
    bytes_needed = math.prod(shape) * size
    if bytes_needed > MOST_BYTES:
        raise InvalidValueError(f"{op}: {name} must fit into memory (2^47 bytes), got {list(shape)}")
    if bytes_needed > PHYSICAL_BYTES:
        raise UnsupportedError(
            f"{op}: {name} {list(shape)} needs {bytes_needed / 1e9:.1f} GB, more than this machine has"
        )


def shown(value: Any) -> str:
    """A value as a message names it: short, and without reading what cannot be read."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}" if value.layout == torch.strided and not value.is_nested else "a tensor"
    if isinstance(value, int) and abs(value) >= 1 << 128:  # Python writes out no int of thousands of digits
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.60}" if _is_plain(value) else type(value).__name__


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) < 100 and all(map(_is_plain, value))
    return isinstance(value, str | bytes | float | complex | type(None)) or (
        isinstance(value, int) and abs(value) < 1 << 128
    )

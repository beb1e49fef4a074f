"""Tensors on their way to a kernel and back: checked, made readable, allocated."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import MOST_BYTES, is_freed, require_room, require_tensors, sequence, shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.ops._registry import core

MAX_INT8_DEPTH = 65536  # sums of products of bytes stay below 2^31

_CPU = torch.device("cpu")
FLOATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # dtype -> RqElement of csrc/ops/rq/rq_encode.h


def readable(tensor: Tensor) -> Tensor:
    """The tensor as a kernel may read it: its elements end to end, as they are meant, each at its own alignment.

    ``z.conj().imag`` is held with the opposite sign, and ``torch.frombuffer`` gives any address: such a tensor is
    copied. torch's dispatcher undoes the sign by itself; this is for the calls that go around it.

    Raises:
        InvalidValueError: its storage was taken away.
    """
    if is_freed(tensor):
        raise InvalidValueError(f"ops: a tensor must have data, got {shown(tensor)} whose storage was freed")
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % tensor.element_size() == 0 else tensor.clone()


def allocate(op: str, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised tensor on the CPU.

    Raises:
        InvalidValueError, UnsupportedError: as ``require_room``, or because the memory is taken.
    """
    require_room(op, name, shape, dtype.itemsize)
    try:
        return torch.empty(shape, dtype=dtype)
    except (RuntimeError, MemoryError) as error:
        gigabytes = math.prod(shape) * dtype.itemsize / 1e9
        raise UnsupportedError(f"{op}: {name} {list(shape)} needs {gigabytes:.1f} GB, more than is free") from error


def require_matrix(op: str, name: str, value: Tensor, shape: str, device: torch.device | None = None) -> None:
    """Raises unless ``value`` is a dense float matrix, on ``device`` where one is named.

    Raises:
        InvalidTypeError: not a tensor, not dense, or not float32, bfloat16 or float16.
        InvalidValueError: not of two dimensions, or on another device.
    """
    if not torch.compiler.is_compiling() and core.is_float_matrix(value) and (device is None or device == _CPU):
        return  # at a quarter of the price of what follows, which says what is wrong
    require_tensors(op, None, **{name: value})
    if value.dtype not in FLOATS:
        raise InvalidTypeError(f"{op}: {name} must be float32, bfloat16 or float16 {shape}, got {value.dtype}")
    if value.dim() != 2:
        raise InvalidValueError(f"{op}: {name} must be {shape}, got {list(value.shape)}")
    if device is not None and value.device != device:
        raise InvalidValueError(f"{op}: {name} must be on {device} like the rest, got {value.device}")


def require_values(
    op: str, name: str, values: Any, dims: int, shape: str, device: torch.device | None = None
) -> Tensor:
    """The tensor: dense, at least ``dims`` dimensions, rows that can be addressed, on ``device`` where one is named.

    Raises:
        InvalidTypeError: not a dense tensor.
        InvalidValueError: too few dimensions, rows too long, or another device.
    """
    require_tensors(op, None, **{name: values})
    checked: Tensor = values
    if checked.dim() < dims:
        raise InvalidValueError(f"{op}: {name} must be {shape}, got {list(checked.shape)}")
    if not torch.compiler.is_compiling() and math.prod(checked.shape[1:]) > MOST_BYTES:
        raise InvalidValueError(f"{op}: {name} must have rows that can be addressed, got {list(checked.shape)}")
    if device is not None and checked.device != device:
        raise InvalidValueError(f"{op}: {name} must be on {device} like the rest, got {checked.device}")
    return checked


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


def require_offsets(op: str, name: str, offsets: Any, device: torch.device) -> Tensor:
    """The offsets as int64, contiguous; their values are ``check_offsets``' to look at.

    Raises:
        InvalidTypeError: not a dense int64 or int32 tensor.
        InvalidValueError: on another device, or not ``[B + 1]``.
    """
    require_tensors(op, None, **{name: offsets})
    if offsets.dtype not in (torch.int32, torch.int64):
        raise InvalidTypeError(f"{op}: {name} must be int64 or int32 [B + 1], got {offsets.dtype}")
    if offsets.device != device:
        raise InvalidValueError(f"{op}: {name} must be on {device} like the rest, got {offsets.device}")
    if offsets.dim() != 1 or offsets.shape[0] < 1:
        raise InvalidValueError(f"{op}: {name} must be [B + 1], got {list(offsets.shape)}")
    checked: Tensor = offsets.long().contiguous()
    return checked


def check_offsets(op: str, name: str, offsets: Tensor, total: int) -> None:
    """Raises unless ``offsets`` (int64 or int32 ``[B + 1]``) run from 0 to ``total`` without decreasing.

    Cost: one pass in C++, about 1 us for 1,000 rows; on a GPU a few torch ops and one wait for their result.

    Raises:
        InvalidValueError: naming the rule and the values that break it.
    """
    if offsets.device.type == "cpu":
        core.check_offsets(op=op, name=name, offsets=offsets.long(), total=total)
        return
    begin, end = int(offsets[0]), int(offsets[-1])
    if begin != 0 or end != total:
        raise InvalidValueError(f"{op}: {name} must run from 0 to {total}, got {begin} to {end}")
    falls = (offsets[1:] < offsets[:-1]).nonzero()
    if falls.numel():
        row = int(falls[0])
        before, after = int(offsets[row]), int(offsets[row + 1])
        raise InvalidValueError(f"{op}: {name} must not decrease, got {after} after {before} at the end of row {row}")

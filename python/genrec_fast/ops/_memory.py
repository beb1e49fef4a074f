"""Outputs of the kernels: allocated where they fit, refused with a typed error where they cannot."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError, UnsupportedError

__all__ = ["allocate", "require_room"]

MOST_BYTES = 1 << 47  # what a process of 64 bits can address


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

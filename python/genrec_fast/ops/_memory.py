"""Outputs of the kernels: allocated where they fit, refused with a typed error where they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError, UnsupportedError

__all__ = ["allocate", "require_room"]

MOST_BYTES = 1 << 47  # what a process of 64 bits can address


def require_room(op: str, name: str, shape: Sequence[int], size: int = 4) -> None:
    """Raises where ``shape`` elements of ``size`` bytes are more than any machine addresses.

    Raises:
        InvalidValueError: naming the shape.
    """
    if math.prod(shape) * size > MOST_BYTES:
        raise InvalidValueError(f"{op}: {name} must fit into memory (2^47 bytes), got {list(shape)}")


def allocate(op: str, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised tensor on the CPU.

    Raises:
        InvalidValueError: no machine could hold it.
        UnsupportedError: this machine has not the memory for it.
    """
    require_room(op, name, shape, dtype.itemsize)
    try:
        return torch.empty(shape, dtype=dtype)
    except (RuntimeError, MemoryError) as error:
        gigabytes = math.prod(shape) * dtype.itemsize / 1e9
        raise UnsupportedError(f"{op}: {name} {list(shape)} needs {gigabytes:.1f} GB, more than there is") from error

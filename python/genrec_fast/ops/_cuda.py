"""Kernels on the card: CuPy compiles ``csrc/cuda/*.cuh`` for the card at hand and launches them on torch's stream."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.card import sources
from genrec_fast.ops import _nvrtc

__all__ = [
    "can_launch",
    "emulates",
    "float32",
    "float64",
    "int32",
    "int64",
    "launch",
    "packed",
    "sources",
    "use_emulator",
]

Arguments = Sequence[Any]
"""Of a kernel, in its order: tensors, ``None`` (a null pointer), numbers and structures of ctypes, as C has them."""
Size = tuple[int, int, int]
Emulator = Callable[[str, str, Size, Size, int, Arguments], None]

int32, int64, float32, float64 = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double

_PLAIN_SHARED = 48 << 10  # bytes: a block that wants more says so
_most_shared: dict[int, int] = {}  # function -> the most dynamic shared bytes that it was allowed

_emulator: Emulator | None = None


@functools.cache
def can_launch() -> bool:
    """Whether there is a card, and CuPy to compile for it."""
    if not torch.cuda.is_available():
        return False
    try:
        import cupy  # noqa: F401
    except ImportError:
        return False
    return True


def use_emulator(emulator: Emulator | None) -> None:
    """From here on the kernels of the card run on CPU tensors, by this function; ``None``: no longer. For tests."""
    global _emulator  # noqa: PLW0603
    _emulator = emulator


def emulates() -> bool:
    """Whether an emulator stands in the card's place."""
    return _emulator is not None


def launch(source: str, kernel: str, grid: Size, block: Size, shared: int, arguments: Arguments) -> None:
    """Starts one kernel; returns at once, nothing is copied or waited for, so a CUDA graph can capture it.

    Args:
        source: name of the file in ``csrc/cuda`` without ``.cuh``.
        kernel: its ``extern "C"`` function.
        grid: blocks in x, y and z; nothing runs if one of them is 0.
        block: threads of a block.
        shared: bytes of dynamic shared memory.
        arguments: all tensors on one device.
    """
    if 0 in grid:
        return
    if _emulator is not None:
        _emulator(source, kernel, grid, block, shared, arguments)
        return
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    from cupy.cuda import Device, driver

    stream = torch.cuda.current_stream(device).cuda_stream
    with Device(device.index):
        function = _function(source, kernel, device.index)
        _allow(driver, function, shared)
        held, addresses = packed(arguments)
        driver.launchKernel(function, *grid, *block, shared, stream, ctypes.addressof(addresses), 0)
        del held  # the driver has copied them


def packed(arguments: Arguments) -> tuple[list[Any], ctypes.Array[ctypes.c_void_p]]:
    """What holds a kernel's arguments, and their addresses, as cuLaunchKernel takes them."""
    held = [_held(argument) for argument in arguments]
    return held, (ctypes.c_void_p * len(held))(*map(ctypes.addressof, held))


def _held(argument: Any) -> Any:
    if argument is None:
        return ctypes.c_void_p(0)
    return ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, Tensor) else argument


def _allow(driver: Any, function: int, shared: int) -> None:
    """Lets the kernel have so many dynamic shared bytes; never fewer than an earlier call, which may come again."""
    if shared > _most_shared.get(function, _PLAIN_SHARED):
        driver.funcSetAttribute(function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
        _most_shared[function] = shared


@functools.cache
def _function(source: str, kernel: str, device: int) -> int:
    address: int = _module(source, device).get_function(kernel).ptr
    return address


@functools.cache
def _module(source: str, device: int) -> Any:  # a module belongs to the card that was current when it was loaded
    from cupy.cuda.function import Module

    module = Module()
    module.load(_nvrtc.image(source, torch.cuda.get_device_capability(device)))
    return module

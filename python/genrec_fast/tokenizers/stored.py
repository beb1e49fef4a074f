"""Tensors of a tokenizer's file, checked: a whole file can still hold something else than ``save`` writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError


def take(
    tensors: dict[str, Tensor],
    name: str,
    dtype: torch.dtype,
    shape: tuple[int | None, ...],
    *,
    finite: bool = True,
    within: tuple[int, int] | None = None,
) -> Tensor:
    """The tensor of this name, contiguous.

    Args:
        tensors: of the file.
        name: of the tensor.
        dtype: it must have.
        shape: it must have; ``None``: any length.
        finite: floats must be.
        within: of integers, the first one allowed and the first one not allowed any more.

    Raises:
        InvalidValueError: no such tensor, or another dtype, shape or range.
    """
    if name not in tensors:
        raise InvalidValueError(f"load: the file must hold {name}, got none")
    tensor = tensors[name]
    fits = tensor.dim() == len(shape) and all(w is None or w == n for w, n in zip(shape, tensor.shape, strict=True))
    if tensor.dtype != dtype or not fits:
        wanted = [("any" if length is None else length) for length in shape]
        raise InvalidValueError(f"load: {name} must be {dtype} {wanted}, got {tensor.dtype} {list(tensor.shape)}")
    if finite and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise InvalidValueError(f"load: {name} must be finite, got NaN or infinity")
    if within is not None and tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        if low < within[0] or high >= within[1]:
            wrong = low if low < within[0] else high
            raise InvalidValueError(f"load: {name} must be in [{within[0]}, {within[1]}), got {wrong}")
    return tensor.contiguous()


def numbers(tensors: dict[str, Tensor], name: str, count: int) -> tuple[float, ...]:
    """``count`` finite floats of a float64 tensor."""
    return tuple(take(tensors, name, torch.float64, (count,)).tolist())


def check_sizes(found: Any) -> tuple[int, ...]:
    """Codebook sizes of a file.

    Raises:
        InvalidValueError: no list of numbers of at least 1.
    """
    right = isinstance(found, list) and all(type(size) is int and 1 <= size <= 1 << 31 for size in found)
    if not right or not found:
        raise InvalidValueError(f"load: codebook_sizes must be a list of numbers of at least 1, got {found!r:.60}")
    return tuple(found)


def check_codes(tensors: dict[str, Tensor], sizes: tuple[int, ...], trained: tuple[int, ...] | None) -> Tensor:
    """``item_codes`` of a file, int32 ``[N, L]``.

    Args:
        tensors: of the file.
        sizes: of all L levels.
        trained: sizes in the settings, of the levels before one of dedup; ``None`` where these say nothing.

    Raises:
        InvalidValueError: another shape, a code outside its codebook, or sizes that the settings deny.
    """
    if trained is not None and (sizes[: len(trained)] != trained or len(sizes) > len(trained) + 1):
        raise InvalidValueError(f"load: codebook_sizes must begin with {trained}, got {sizes}")
    codes = take(tensors, "item_codes", torch.int32, (None, len(sizes)))
    if not len(codes):
        raise InvalidValueError("load: item_codes must have at least 1 row, got 0")
    outside = ((codes < 0) | (codes >= torch.tensor(sizes))).nonzero()
    if len(outside):
        item, level = outside[0].tolist()
        raise InvalidValueError(
            f"load: item_codes of level {level} must be in [0, {sizes[level]}), got {int(codes[item, level])} "
            f"of item {item}"
        )
    return codes

"""A trie and a filter of its rows as the kernels take them: looked at in every call, because tuples are easily altered.

What is looked at is what C++ cannot see (devices, dtypes, strides). How the tensors fit together is checked in
``csrc/ops/trie_shape.cpp``; their contents are bounded wherever a kernel uses them as an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.checks import numbers, require_tensors, shown
from genrec_fast.errors import GenrecError, InvalidTypeError, InvalidValueError
from genrec_fast.ops.trie_offsets import DELTA_BYTES

__all__ = ["MAX_CODES", "MAX_LEVELS", "filter_arguments", "level_arguments", "num_levels", "require_levels"]

MAX_LEVELS = 8
MAX_CODES = 65536  # per level: a token has at most 16 bits
_INT32 = torch.int32
TOKEN_BYTES = {torch.uint8: 1, torch.uint16: 2}

# tokens, bytes of a token, edges, bases, their number, deltas, bytes of a delta, nodes; addresses first
Level = tuple[int, int, int, int, int, int, int, int]
# bits, ranks, users, words, excluded rows, their number, their offsets, their users
Filter = tuple[int, int, int, int, int, int, int, int]


def num_levels(op: str, trie: Any) -> int:
    """The levels of what should be a trie.

    Raises:
        InvalidTypeError: it has not the fields of one.
        InvalidValueError: its fields differ in length.
    """
    try:
        levels = len(trie.codebook_sizes)
        for part in (trie.tokens, trie.child_bases, trie.child_deltas):
            if not isinstance(part, tuple | list):
                raise InvalidTypeError(f"{op}: trie must hold tuples of tensors, got {shown(part)}")
        if levels == len(trie.tokens) == len(trie.child_bases) == len(trie.child_deltas) and 1 <= levels <= MAX_LEVELS:
            return levels
        lengths = [len(x) for x in (trie.codebook_sizes, trie.tokens, trie.child_bases, trie.child_deltas)]
    except (AttributeError, TypeError) as error:
        if isinstance(error, GenrecError):
            raise
        raise InvalidTypeError(f"{op}: trie must be a trie (gf.build_trie makes one), got {shown(trie)}") from error
    raise InvalidValueError(
        f"{op}: trie must have sizes, tokens, bases and deltas of 1 to {MAX_LEVELS} levels, got {lengths} of them"
    )


def require_levels(op: str, trie: Any) -> list[int]:
    """The codebook sizes of a trie that torch's dispatcher will be given whole.

    Raises:
        InvalidTypeError: not a trie of tensors.
        InvalidValueError: lengths or devices that differ, sizes out of range.
    """
    num_levels(op, trie)
    every = (*trie.tokens, *trie.child_bases, *trie.child_deltas)
    if not all(map(_is_plain, every)):
        _require_tensors(op, trie)
    return numbers(op, "codebook_sizes", trie.codebook_sizes, 1, MAX_CODES)


def _is_plain(tensor: Any) -> bool:
    """One that needs no closer look, before its dtype, strides and size are read."""
    return type(tensor) is Tensor and tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_nested


def _require_tensors(op: str, trie: Any) -> None:
    given = {
        f"{name}[{level}]": tensor
        for name in ("tokens", "child_bases", "child_deltas")
        for level, tensor in enumerate(getattr(trie, name))
    }
    require_tensors(op, None, **given)
    device = trie.tokens[0].device
    for name, tensor in given.items():
        if tensor.device != device:
            raise InvalidValueError(f"{op}: {name} must be on {device} like the rest of the trie, got {tensor.device}")


def level_arguments(
    op: str, tokens: Sequence[Tensor], bases: Sequence[Tensor], deltas: Sequence[Tensor]
) -> list[Level]:
    """One entry per level; the tensors must stay alive meanwhile.

    Raises:
        InvalidTypeError: a tensor of another dtype, or none.
        InvalidValueError: one that is elsewhere, or not contiguous.
    """
    levels: list[Level] = []
    try:
        for t, b, d in zip(tokens, bases, deltas, strict=True):
            if (
                b.dtype is not _INT32
                or not (t.is_cpu and b.is_cpu and d.is_cpu)
                or not (t.is_contiguous() and b.is_contiguous() and d.is_contiguous())
            ):
                raise _refusal(op, len(levels), t, b, d)
            token_bytes, delta_bytes, nodes = TOKEN_BYTES[t.dtype], DELTA_BYTES[d.dtype], d.numel() - 1
            levels.append(
                (t.data_ptr(), token_bytes, t.numel(), b.data_ptr(), b.numel(), d.data_ptr(), delta_bytes, nodes)
            )
    except KeyError as error:
        raise _refusal(op, len(levels), t, b, d) from error
    except AttributeError as error:
        raise InvalidTypeError(f"{op}: trie must hold tensors, got another thing at level {len(levels)}") from error
    except ValueError as error:
        if isinstance(error, GenrecError):
            raise
        raise InvalidValueError(f"{op}: trie must have tokens, bases and deltas of as many levels each") from error
    return levels


def _refusal(op: str, level: int, *tensors: Tensor) -> InvalidTypeError | InvalidValueError:
    wanted = (("tokens", TOKEN_BYTES), ("child_bases", {torch.int32: 4}), ("child_deltas", DELTA_BYTES))
    for (name, dtypes), tensor in zip(wanted, tensors, strict=True):
        if tensor.dtype not in dtypes:
            kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            return InvalidTypeError(f"{op}: {name} of level {level} must be {kinds}, got {tensor.dtype}")
        if not tensor.is_cpu or not tensor.is_contiguous():
            got = f"strides {list(tensor.stride())}" if tensor.is_cpu else f"a tensor on {tensor.device}"
            return InvalidValueError(f"{op}: {name} of level {level} must be contiguous on the CPU, got {got}")
    return InvalidValueError(f"{op}: trie must be whole at level {level}")


def filter_arguments(
    op: str, bits: Tensor | None, ranks: Tensor | None, excluded: Tensor | None, offsets: Tensor | None
) -> Filter:
    """What a kernel reads of a filter; zeros where there is none.

    Raises:
        InvalidTypeError: a tensor of another dtype.
        InvalidValueError: one without the other, one that is elsewhere, not contiguous, or of another shape.
    """
    if (bits is None) != (ranks is None) or (excluded is None) != (offsets is None):
        raise InvalidValueError(f"{op}: filter must hold bits with ranks and excluded rows with offsets, got one alone")
    if bits is not None:
        _require_whole(op, "bits", bits, torch.int64, 2)
        _require_whole(op, "ranks", ranks, torch.int32, 2)
    if offsets is not None:
        _require_whole(op, "excluded", excluded, torch.int32, 1)
        _require_whole(op, "excluded_offsets", offsets, torch.int64, 1)
    allow = (0, 0, 0, 0)
    if bits is not None and ranks is not None:
        shape, addresses = bits.shape, (bits.data_ptr(), ranks.data_ptr())
        if ranks.shape != shape:
            raise InvalidValueError(
                f"{op}: ranks of the filter must be {list(shape)} like its bits, got {list(ranks.shape)}"
            )
        if 0 in addresses and bits.numel():  # of no users there is nothing to read
            raise InvalidValueError(f"{op}: bits and ranks of the filter must have data, got none")
        allow = (*addresses, *shape)
    if excluded is None or offsets is None:
        return (*allow, 0, 0, 0, 0)
    if offsets.numel() < 1:
        raise InvalidValueError(f"{op}: excluded_offsets of the filter must be [B + 1], got [0]")
    return (*allow, excluded.data_ptr(), excluded.numel(), offsets.data_ptr(), offsets.numel() - 1)


def _require_whole(op: str, name: str, tensor: Any, dtype: torch.dtype, dims: int) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidTypeError(f"{op}: {name} of the filter must be a tensor, got {shown(tensor)}")
    if tensor.dtype is not dtype:
        raise InvalidTypeError(f"{op}: {name} of the filter must be {dtype}, got {tensor.dtype}")
    if not tensor.is_cpu or not tensor.is_contiguous() or tensor.dim() != dims:
        raise InvalidValueError(
            f"{op}: {name} of the filter must be contiguous on the CPU in {dims} dimensions, "
            f"got {list(tensor.shape)} on {tensor.device}"
        )

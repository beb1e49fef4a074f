"""A trie and a filter of its rows as kernels on the card take them, by value (``trie.cuh`` and ``row_filter.cuh``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

_TOKENS = (torch.uint8, torch.uint16)
_DELTAS = (torch.uint8, torch.uint16, torch.int32)
_BLOCK = 16  # offsets per base


class PackedOffsets(ctypes.Structure):
    """``PackedOffsets``."""

    _fields_ = (
        ("bases", ctypes.c_void_p),
        ("deltas", ctypes.c_void_p),
        ("count", ctypes.c_longlong),
        ("width", ctypes.c_int),
    )


class _TrieLevel(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("num_edges", ctypes.c_longlong),
        ("child", PackedOffsets),
        ("token_width", ctypes.c_int),
    )


class CardTrie(ctypes.Structure):
    """``Trie``."""

    _fields_ = (("levels", _TrieLevel * 8), ("num_levels", ctypes.c_int))


class CardFilter(ctypes.Structure):
    """``RowFilter``."""

    _fields_ = (
        ("bits", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("words", ctypes.c_longlong),
        ("users", ctypes.c_longlong),
        ("excluded", ctypes.c_void_p),
        ("excluded_offsets", ctypes.c_void_p),
        ("num_excluded", ctypes.c_longlong),
    )


def card_trie(
    op: str, tokens: Sequence[Tensor], child_bases: Sequence[Tensor], child_deltas: Sequence[Tensor]
) -> CardTrie:
    """The levels that are given, first to last; their tensors must outlive the kernel's start.

    Raises:
        InvalidTypeError: a tensor of another dtype than a trie's.
        InvalidValueError: tensors that do not fit together.
    """
    trie = CardTrie(num_levels=len(tokens))
    for level, (codes, bases, deltas) in enumerate(zip(tokens, child_bases, child_deltas, strict=True)):
        for name, tensor, dtypes in (
            ("tokens", codes, _TOKENS),
            ("child_bases", bases, (torch.int32,)),
            ("child_deltas", deltas, _DELTAS),
        ):
            if tensor.dtype not in dtypes or tensor.dim() != 1:
                raise InvalidTypeError(
                    f"{op}: {name} of level {level} must be {' or '.join(map(str, dtypes))} [n], "
                    f"got {tensor.dtype} {list(tensor.shape)}"
                )
            if not tensor.is_contiguous():
                raise InvalidValueError(f"{op}: {name} of level {level} must be contiguous, got {tensor.stride()}")
        count = deltas.numel()
        nodes = tokens[level - 1].numel() if level else None  # a level's nodes are the edges of the one before
        if count < 2 or bases.numel() != (count - 1) // _BLOCK + 1 or nodes not in (None, count - 1):
            raise InvalidValueError(
                f"{op}: child_deltas of level {level} must hold one offset more than nodes, with one base for "
                f"{_BLOCK}, got {count} for {nodes} nodes and {bases.numel()} bases"
            )
        trie.levels[level] = _TrieLevel(
            codes.data_ptr(),
            codes.numel(),
            PackedOffsets(bases.data_ptr(), deltas.data_ptr(), count, deltas.element_size()),
            codes.element_size(),
        )
    return trie


def card_filter(
    op: str,
    masks: Sequence[Tensor | None],
    num_rows: int,
    num_users: int,
) -> CardFilter:
    """The four tensors of a ``TrieFilter`` (bits, ranks, excluded, excluded_offsets), which must outlive the start.

    Raises:
        InvalidTypeError: a tensor of another dtype than a filter's.
        InvalidValueError: tensors that do not fit together, the trie's ``num_rows`` rows or ``num_users`` users.
    """
    bits, ranks, excluded, offsets = masks
    if (bits is None) is not (ranks is None) or (excluded is None) is not (offsets is None):
        raise InvalidValueError(f"{op}: filter must hold bits with ranks and excluded rows with offsets, got one alone")
    found = CardFilter()
    for name, tensor, dtype, dims in (
        ("bits", bits, torch.int64, 2),
        ("ranks", ranks, torch.int32, 2),
        ("excluded", excluded, torch.int32, 1),
        ("excluded_offsets", offsets, torch.int64, 1),
    ):
        if tensor is None:
            continue
        if tensor.dtype != dtype or tensor.dim() != dims or not tensor.is_contiguous():
            raise InvalidTypeError(
                f"{op}: {name} must be contiguous {dtype} of {dims} dimensions, got {tensor.dtype} {list(tensor.shape)}"
            )
        setattr(found, name, tensor.data_ptr())
    if bits is not None and ranks is not None:
        found.users, found.words = bits.shape
        if bits.shape != ranks.shape or found.words != num_rows // 64 + 1 or found.users not in (1, num_users):
            raise InvalidValueError(
                f"{op}: allowed must be a filter of this trie, with {num_rows} rows, for one or {num_users} users, "
                f"got bits {list(bits.shape)} and ranks {list(ranks.shape)}"
            )
    if excluded is not None and offsets is not None:
        found.num_excluded = excluded.numel()
        if offsets.numel() != num_users + 1:
            raise InvalidValueError(f"{op}: exclude must be for {num_users} users, got {offsets.numel() - 1}")
    return found

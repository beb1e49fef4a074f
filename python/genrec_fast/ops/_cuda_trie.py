"""A trie as kernels on the card take it: ``Trie`` of ``csrc/cuda/trie.cuh``, by value."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

__all__ = ["card_trie"]

_TOKENS = (torch.uint8, torch.uint16)
_DELTAS = (torch.uint8, torch.uint16, torch.int32)
_BLOCK = 16  # offsets per base


class _PackedOffsets(ctypes.Structure):
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
        ("child", _PackedOffsets),
        ("token_width", ctypes.c_int),
    )


class _Trie(ctypes.Structure):
    _fields_ = (("levels", _TrieLevel * 8), ("num_levels", ctypes.c_int))


def card_trie(
    op: str, tokens: Sequence[Tensor], child_bases: Sequence[Tensor], child_deltas: Sequence[Tensor]
) -> ctypes.Structure:
    """The levels that are given, first to last; their tensors must outlive the kernel's start.

    Raises:
        InvalidTypeError: a tensor of another dtype than a trie's.
        InvalidValueError: tensors that do not fit together.
    """
    trie = _Trie(num_levels=len(tokens))
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
            _PackedOffsets(bases.data_ptr(), deltas.data_ptr(), count, deltas.element_size()),
            codes.element_size(),
        )
    return trie

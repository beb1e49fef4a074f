"""What torch's dispatcher is given of a trie: looked at in every call, because tuples are easily altered.

Dtypes and strides are checked where C++ reads them (csrc/bindings/trie_arguments.h), how the tensors fit together in
``csrc/ops/trie/trie_shape.cpp``; their contents are bounded wherever a kernel uses them as an index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import numbers, require_tensors, shown
from genrec_fast.base.errors import GenrecError, InvalidTypeError, InvalidValueError

MAX_LEVELS = 8
MAX_CODES = 65536  # per level: a token has at most 16 bits


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

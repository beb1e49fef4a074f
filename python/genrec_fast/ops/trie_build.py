"""Semantic IDs -> the tensors of a trie, and the check that such tensors are safe to search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.checks import numbers, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.base.protocols import TrieTensors
from genrec_fast.ops._registry import core
from genrec_fast.ops._tensors import allocate
from genrec_fast.ops._trie_arguments import MAX_CODES, MAX_LEVELS, num_levels
from genrec_fast.ops.trie_offsets import BLOCK_BITS, DELTA_BYTES

__all__ = ["MAX_CODES", "MAX_LEVELS", "TrieParts", "token_dtype", "trie_build", "trie_check"]

MAX_ITEMS = 2**31 - 1  # item ids, rows and nodes are int32


class TrieParts(NamedTuple):
    """What ``trie_build`` gives; the fields of ``genrec_fast.catalog.trie.Trie``."""

    codebook_sizes: tuple[int, ...]
    num_items: int
    tokens: tuple[Tensor, ...]
    child_bases: tuple[Tensor, ...]
    child_deltas: tuple[Tensor, ...]
    leaf_bases: Tensor
    leaf_deltas: Tensor
    leaf_items: Tensor


@door
def trie_build(item_codes: Any, codebook_sizes: Sequence[int] | None = None) -> TrieParts:
    """Sorts semantic IDs into a trie.

    rows = the unique rows of item_codes in lexicographic order; the edges of level l are the unique prefixes of
    l + 1 codes; node n of level l has edges ``[off(n), off(n + 1))`` with ``off(n) = bases[n >> 4] + deltas[n]``.

    Args:
        item_codes: ``[N, L]``, any integer dtype and strides, numpy or torch (or nested lists); N in [1, 2^31 - 1],
            L in [1, 8]; codes in ``[0, codebook_sizes[l])``; rows in any order, repeated rows allowed.
        codebook_sizes: one size in [1, 65536] per level; ``None``: the largest code plus one.

    Returns:
        Tensors on the CPU. Tokens are uint8 where a codebook has at most 256 codes, else uint16; bases int32; deltas
        the narrowest of uint8, uint16, int32; leaf items int32, ascending within a row.

    Raises:
        InvalidTypeError: item_codes are not integers.
        InvalidValueError: wrong shape or size; a code out of range, naming item and level.

    Notes:
        O(N L) time: one pass to check, one to pack keys, one radix pass per 11 bits of a semantic ID, two to write.
        Workspace 24 bytes an item (40 where a semantic ID has more than 64 bits); the input is not copied.
        Deterministic. Not differentiable.

    Source:
        Ours.

    Example:
        >>> from genrec_fast.ops.trie_build import trie_build
        >>> parts = trie_build([[1, 0], [0, 2], [1, 0]])
        >>> parts.tokens[0].tolist(), parts.tokens[1].tolist(), parts.leaf_items.tolist()
        ([0, 1], [2, 0], [1, 0, 2])
    """
    owner, codes, num_items, levels = _code_array(item_codes)
    sizes = _codebook_sizes(codebook_sizes, levels)
    maxima = core.trie_build_range(limits=[MAX_CODES] * levels if sizes is None else sizes, codes=codes)
    if sizes is None:
        sizes = [largest + 1 for largest in maxima]

    words = core.trie_build_words(codebook_sizes=sizes)
    keys = [allocate("build_trie", "keys", num_items * words, dtype=torch.int64) for _ in range(2)]
    items = [allocate("build_trie", "items", num_items, dtype=torch.int32) for _ in range(2)]
    sorted_into = core.trie_build_sort(
        codebook_sizes=sizes,
        codes=codes,
        keys=keys,
        items=items,
    )
    del owner
    sorted_keys, leaf_items = keys[sorted_into], items[sorted_into]
    del keys, items  # the other buffers: 12 bytes an item

    num_edges, child_deltas, leaf_delta = core.trie_build_size(codebook_sizes=sizes, keys=sorted_keys)
    tokens = [
        allocate("build_trie", "tokens", n, dtype=token_dtype(size)) for n, size in zip(num_edges, sizes, strict=True)
    ]
    counts = [1, *num_edges]  # nodes of each level, then rows
    bases = [allocate("build_trie", "bases", (n >> BLOCK_BITS) + 1, dtype=torch.int32) for n in counts]
    deltas = [
        allocate("build_trie", "deltas", n + 1, dtype=_delta_dtype(largest))
        for n, largest in zip(counts, [*child_deltas, leaf_delta], strict=True)
    ]
    core.trie_build(codebook_sizes=sizes, keys=sorted_keys, tokens=tokens, bases=bases, deltas=deltas)
    return TrieParts(
        tuple(sizes), num_items, tuple(tokens), tuple(bases[:-1]), tuple(deltas[:-1]), bases[-1], deltas[-1], leaf_items
    )


def trie_check(trie: TrieTensors, leaf_bases: Tensor, leaf_deltas: Tensor, leaf_items: Tensor, num_items: int) -> None:
    """Raises unless every offset, token and item of a trie keeps the rules; dtypes and shapes first.

    Args:
        trie: tensors on the CPU, as ``trie_build`` gives them.
        leaf_bases: int32 ``[(rows >> 4) + 1]``.
        leaf_deltas: uint8, uint16 or int32 ``[rows + 1]``.
        leaf_items: int32 ``[N]``, a permutation of 0 .. N - 1, ascending within a row.
        num_items: N.

    Raises:
        InvalidTypeError: a tensor has the wrong dtype.
        InvalidValueError: the first rule that is broken, with level and place.

    Notes:
        One pass over every tensor, one bit of workspace per item.
    """
    sizes = trie.codebook_sizes
    if not 1 <= len(sizes) <= MAX_LEVELS:
        raise InvalidValueError(f"Trie: codebook_sizes must have 1 to {MAX_LEVELS} entries, got {len(sizes)}")
    for name in ("tokens", "child_bases", "child_deltas"):
        if len(getattr(trie, name)) != len(sizes):
            raise InvalidValueError(
                f"Trie: {name} must have one tensor for each of {len(sizes)} levels, got {len(getattr(trie, name))}"
            )
    num_levels("Trie", trie)
    if not 1 <= num_items <= MAX_ITEMS:
        raise InvalidValueError(f"Trie: num_items must be in [1, {MAX_ITEMS}], got {num_items}")
    num_nodes = 1
    for level, size in enumerate(sizes):
        if not 1 <= size <= MAX_CODES:
            raise InvalidValueError(f"Trie: codebook_sizes must be in [1, {MAX_CODES}], got {size} at level {level}")
        _check_tensor(f"tokens of level {level}", trie.tokens[level], (token_dtype(size),), None)
        _check_tensor(
            f"child_bases of level {level}", trie.child_bases[level], (torch.int32,), (num_nodes >> BLOCK_BITS) + 1
        )
        _check_tensor(f"child_deltas of level {level}", trie.child_deltas[level], tuple(DELTA_BYTES), num_nodes + 1)
        num_nodes = trie.tokens[level].numel()
    _check_tensor("leaf_bases", leaf_bases, (torch.int32,), (num_nodes >> BLOCK_BITS) + 1)
    _check_tensor("leaf_deltas", leaf_deltas, tuple(DELTA_BYTES), num_nodes + 1)
    _check_tensor("leaf_items", leaf_items, (torch.int32,), num_items)
    core.trie_check(
        codebook_sizes=sizes,
        tokens=trie.tokens,
        child_bases=trie.child_bases,
        child_deltas=trie.child_deltas,
        leaf_bases=leaf_bases,
        leaf_deltas=leaf_deltas,
        leaf_items=leaf_items,
    )


def token_dtype(codebook_size: int) -> torch.dtype:
    """uint8 where it holds every code, else uint16."""
    return torch.uint8 if codebook_size <= 256 else torch.uint16


def _delta_dtype(largest: int) -> torch.dtype:
    return torch.uint8 if largest < 256 else torch.uint16 if largest < 65536 else torch.int32


def _check_tensor(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], length: int | None) -> None:
    if tensor.dtype not in dtypes:
        raise InvalidTypeError(f"Trie: {name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise InvalidValueError(f"Trie: {name} must be contiguous on the CPU, got strides {tensor.stride()}")
    if tensor.dim() != 1 or tensor.numel() == 0 or (length is not None and tensor.numel() != length):
        raise InvalidValueError(f"Trie: {name} must be [{length or 'E'}], got {list(tensor.shape)}")


def _codebook_sizes(sizes: Sequence[int] | None, levels: int) -> list[int] | None:
    if sizes is None:
        return None
    found = numbers("build_trie", "codebook_sizes", sizes)
    if len(found) != levels:
        raise InvalidValueError(f"build_trie: codebook_sizes must have {levels} entries, got {len(found)}")
    for level, size in enumerate(found):
        if not 1 <= size <= MAX_CODES:
            raise InvalidValueError(
                f"build_trie: codebook_sizes must be in [1, {MAX_CODES}], got {size} at level {level}"
            )
    return found


# (address, bytes per code, signed, N, L, item stride in bytes, level stride in bytes)
CodesArgument = tuple[int, int, bool, int, int, int, int]


def _code_array(item_codes: Any) -> tuple[Any, CodesArgument, int, int]:
    """The owner of the memory, how the kernel reads it, N and L. Copies nothing that already is an array."""
    owner, dtype, is_integer, shape, describe = (_from_torch if isinstance(item_codes, Tensor) else _from_numpy)(
        item_codes
    )
    if not is_integer:
        raise InvalidTypeError(f"build_trie: item_codes must be integers [N, L], got {dtype} {shape}")
    if len(shape) != 2 or not 1 <= shape[1] <= MAX_LEVELS:
        raise InvalidValueError(f"build_trie: item_codes must be [N, L] with L in [1, {MAX_LEVELS}], got {shape}")
    num_items, levels = shape
    if not 1 <= num_items <= MAX_ITEMS:
        raise InvalidValueError(f"build_trie: item_codes must have 1 to {MAX_ITEMS} items, got {num_items}")
    address, size, signed, strides = describe
    # That of a dimension of one is never followed, and may be any number.
    strides = tuple(stride if length > 1 else 0 for stride, length in zip(strides, shape, strict=True))
    return owner, (address, size, signed, num_items, levels, strides[0], strides[1]), num_items, levels


# owner, dtype, whether it is an integer, shape, (address, bytes per code, signed, strides in bytes)
_Described = tuple[Any, str, bool, list[int], tuple[int, int, bool, tuple[int, ...]]]


def _from_torch(codes: Tensor) -> _Described:
    require_tensors("build_trie", None, item_codes=codes)
    codes = codes.detach().cpu().resolve_neg()
    if codes.numel() and not codes.data_ptr():
        raise InvalidValueError("build_trie: item_codes must have data, got a tensor whose storage was freed")
    is_integer = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    size = codes.element_size()
    describe = (codes.data_ptr(), size, codes.dtype.is_signed, tuple(stride * size for stride in codes.stride()))
    return codes, str(codes.dtype), is_integer, list(codes.shape), describe


def _from_numpy(item_codes: Any) -> _Described:
    try:
        codes: Any = np.asarray(item_codes)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # lists of unequal length, or of other things
        raise InvalidValueError(f"build_trie: item_codes must be [N, L], got {error}") from error
    if not codes.dtype.isnative:
        codes = codes.astype(codes.dtype.newbyteorder("="))
    describe = (
        int(codes.__array_interface__["data"][0]),
        codes.dtype.itemsize,
        codes.dtype.kind == "i",
        tuple(codes.strides),
    )
    return codes, str(codes.dtype), codes.dtype.kind in "iu", list(codes.shape), describe

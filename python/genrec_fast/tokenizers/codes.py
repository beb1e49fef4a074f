"""Checks of codes, codebooks and their sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from genrec_fast.base.checks import check_integers, numbers, require_tensors, shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

MAX_CODES = 65536  # per level: the trie's limit


def check_item_codes(op: str, item_codes: Tensor, codebook_sizes: tuple[int, ...] | None = None) -> None:
    """An integer tensor ``[N, L]`` on which ``group_items`` may be called.

    Raises:
        InvalidTypeError: not integers.
        InvalidValueError: another shape, empty, or a code outside its codebook.
    """
    check_integers(op, "item_codes", item_codes, "[N, L]")
    if codebook_sizes is not None:  # codes of atoms are their items, however many
        check_codebook_sizes(op, codebook_sizes, most=1 << 31)
    levels = "L" if codebook_sizes is None else len(codebook_sizes)
    wrong_levels = codebook_sizes is not None and item_codes.shape[-1:] != (len(codebook_sizes),)
    if item_codes.dim() != 2 or item_codes.numel() == 0 or wrong_levels:
        raise InvalidValueError(f"{op}: item_codes must be [N, {levels}], got {list(item_codes.shape)}")
    for level, column in enumerate(item_codes.T):
        low, high = int(column.min()), int(column.max())
        limit = 1 << 31 if codebook_sizes is None else codebook_sizes[level]
        if low < 0 or high >= limit:
            wrong = low if low < 0 else high
            raise InvalidValueError(f"{op}: codes of level {level} must be in [0, {limit}), got {wrong}")


def check_codebook_sizes(op: str, codebook_sizes: object, *, most: int = MAX_CODES) -> tuple[int, ...]:
    """Whole numbers from 1 to ``most``, one per level, as a tuple.

    Raises:
        InvalidTypeError: no tuple or list of whole numbers.
        InvalidValueError: none, or one out of range.
    """
    sizes = tuple(numbers(op, "codebook_sizes", codebook_sizes))
    if not sizes or not all(1 <= size <= most for size in sizes):
        raise InvalidValueError(f"{op}: codebook_sizes must be in [1, {most}], one per level, got {shown(sizes)}")
    return sizes


def check_codebooks(op: str, codebooks: object) -> None:
    """Finite float tensors ``[K_l, D]``, one per level.

    Raises:
        InvalidTypeError: they are not.
        InvalidValueError: none, another shape, or values that are not finite.
    """
    if not isinstance(codebooks, Sequence) or isinstance(codebooks, str):
        raise InvalidTypeError(f"{op}: codebooks must be a list of tensors, got {type(codebooks).__name__}")
    if not codebooks:
        raise InvalidValueError(f"{op}: codebooks must be one per level, got none")
    for level, book in enumerate(codebooks):
        require_tensors(op, None, **{f"codebooks[{level}]": book})
        if not book.is_floating_point():
            raise InvalidTypeError(f"{op}: codebooks must be float tensors [K, D], got {book.dtype} at level {level}")
        if book.dim() != 2 or 0 in book.shape or book.shape[1] != codebooks[0].shape[1]:
            raise InvalidValueError(f"{op}: codebooks must be [K, D] of one D, got {list(book.shape)} at level {level}")
        if not bool(book.isfinite().all()):
            raise InvalidValueError(f"{op}: codebooks must be finite, got NaN or infinity at level {level}")

"""Items in the order of their semantic IDs: groups of equal prefixes are then neighbours. One sort serves all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.checks import check_integers, require_tensors, shown
from genrec_fast.errors import InvalidTypeError, InvalidValueError

__all__ = ["Groups", "check_codebook_sizes", "check_codebooks", "check_item_codes", "group_items"]

MAX_CODES = 65536  # per level: the trie's limit
_MOST = (1 << 63) - 1


@dataclass(frozen=True, eq=False)
class Groups:
    """``group_items`` of N items; groups are numbered in lexicographic order of their codes."""

    order: Tensor
    """int64 ``[N]``: item ids in lexicographic order of codes, equal codes in order of item id"""
    begins: Tensor
    """bool ``[L, N]``: whether sorted place i has another prefix of l + 1 codes than place i - 1"""

    def starts(self, length: int) -> Tensor:
        """int64 ``[G]``: sorted places where groups of equal prefixes of ``length`` codes begin; of none: one group."""
        if length == 0:
            return torch.zeros(1, dtype=torch.int64)
        return self.begins[length - 1].nonzero().squeeze(1)

    def counts(self, length: int) -> Tensor:
        """int64 ``[G]``: items per group of equal prefixes of ``length`` codes."""
        return torch.diff(self.starts(length), append=torch.tensor([self.order.numel()]))

    def numbers(self, length: int) -> Tensor:
        """int64 ``[N]``: the group of each sorted place."""
        if length == 0:
            return torch.zeros_like(self.order)
        return self.begins[length - 1].cumsum(0) - 1

    def ranks(self, length: int) -> Tensor:
        """int64 ``[N]``: each sorted place's rank in its group, from 0; equal codes rank in order of item id."""
        return torch.arange(self.order.numel()) - self.starts(length)[self.numbers(length)]


def group_items(item_codes: Tensor) -> Groups:
    """Sorts items by their codes: integer ``[N, L]``, N and L at least 1, values from 0 (unchecked).

    Notes:
        Codes of a row are packed into one int64 as far as they fit; one stable sort per 63 bits: O(N log N).
    """
    codes = item_codes.detach().resolve_neg().to("cpu", torch.int64)
    count, levels = codes.shape
    key = torch.zeros(count, dtype=torch.int64)
    span = 1  # keys are in [0, span)
    for level in range(levels):
        size = int(codes[:, level].max()) + 1
        if span > _MOST // size:  # no room: the keys so far become their ranks among the different ones
            _, key = torch.unique(key, return_inverse=True)
            span = int(key.max()) + 1
        key = key * size + codes[:, level]
        span *= size
    order = torch.sort(key, stable=True).indices
    begins = torch.ones(levels, count, dtype=torch.bool)
    new = torch.zeros(max(count - 1, 0), dtype=torch.bool)
    for level in range(levels):
        column = codes[:, level][order]
        new |= column[1:] != column[:-1]
        begins[level, 1:] = new
    return Groups(order, begins)


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
    given = codebook_sizes if isinstance(codebook_sizes, (tuple, list)) else None
    if given is None or any(isinstance(size, bool) or not isinstance(size, int) for size in given):
        raise InvalidTypeError(f"{op}: codebook_sizes must be a tuple of int, got {shown(codebook_sizes)}")
    if not given or not all(1 <= size <= most for size in given):
        raise InvalidValueError(f"{op}: codebook_sizes must be in [1, {most}], one per level, got {shown(given)}")
    return tuple(given)


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

"""An extra level that tells items of equal codes apart."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError

__all__ = ["Dedup", "add_dedup_level", "check_dedup"]

Dedup = Literal["rank", "rank_if_shared", "colliding_only", "none"]


def check_dedup(op: str, dedup: str) -> None:
    """One of the four conventions.

    Raises:
        InvalidValueError: it is not.
    """
    if dedup not in get_args(Dedup):
        raise InvalidValueError(f"{op}: dedup must be one of {', '.join(get_args(Dedup))}, got {dedup!r}")


def add_dedup_level(
    item_codes: Tensor, codebook_sizes: tuple[int, ...], dedup: Dedup
) -> tuple[Tensor, tuple[int, ...]]:
    """Appends one level so that every item has a semantic ID of its own.

    Among the n items of equal codes, in order of item id, item r = 0 .. n - 1 gets

    - "rank": r, for every item (TIGER); codebook size: the largest n.
    - "rank_if_shared": 0 if n = 1, else r + 1; codebook size: the largest n, plus 1 if any codes are shared.
    - "colliding_only": r if n > 1. A unique item needs no digit, but a tensor has rows of one length: it gets a
      filler, the last code of the level. Codebook size: the largest n plus 1. No level at all if nothing collides.
    - "none": nothing; items go on sharing a semantic ID (the search gives them all).

    Args:
        item_codes: integer ``[N, L]``.
        codebook_sizes: L sizes.
        dedup: the convention.

    Returns:
        int32 ``[N, L + 1]`` (or ``[N, L]``) and the sizes of all its levels.

    Raises:
        InvalidTypeError: item_codes are not integers.
        InvalidValueError: a shape or the convention is wrong.

    Notes:
        One sort: O(N L log N). Deterministic.

    Source: the three conventions in use by published systems; the filler is ours.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers.dedup import add_dedup_level
        >>> codes, sizes = add_dedup_level(torch.tensor([[7], [3], [7]]), (8,), "rank")
        >>> codes.tolist(), sizes
        ([[7, 0], [3, 0], [7, 1]], (8, 2))
    """
    check_dedup("add_dedup_level", dedup)
    if item_codes.is_floating_point() or item_codes.dtype == torch.bool:
        raise InvalidTypeError(f"add_dedup_level: item_codes must be integers [N, L], got {item_codes.dtype}")
    if item_codes.dim() != 2 or item_codes.shape[0] == 0 or item_codes.shape[1] != len(codebook_sizes):
        raise InvalidValueError(
            f"add_dedup_level: item_codes must be [N, {len(codebook_sizes)}], got {list(item_codes.shape)}"
        )
    item_codes = item_codes.to(torch.int32)
    if dedup == "none":
        return item_codes, codebook_sizes
    _, group, counts = torch.unique(item_codes, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(group, stable=True)
    rank = torch.empty_like(group)
    rank[order] = torch.arange(group.numel(), device=group.device) - (counts.cumsum(0) - counts)[group[order]]
    largest = int(counts.max())
    shared = counts[group] > 1
    if dedup == "rank":
        size, digit = largest, rank
    elif dedup == "rank_if_shared":
        size, digit = (largest + 1 if largest > 1 else 1), torch.where(shared, rank + 1, 0)
    elif largest == 1:
        return item_codes, codebook_sizes
    else:
        size, digit = largest + 1, torch.where(shared, rank, largest)
    return torch.cat([item_codes, digit.to(torch.int32).unsqueeze(1)], 1), (*codebook_sizes, size)

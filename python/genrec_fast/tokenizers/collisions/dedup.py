"""An extra level that tells items of equal codes apart."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers.codes import check_codebook_sizes, check_item_codes
from genrec_fast.tokenizers.collisions.groups import group_items
from genrec_fast.tokenizers.collisions.resolution import Resolution, Resolved

Dedup = Literal["rank", "rank_if_shared", "colliding_only", "none"]
CodebookDedup = Literal["rank", "rank_if_shared", "colliding_only", "none", "nearest_free", "sinkhorn"]


def check_dedup(op: str, dedup: str, *, codebooks: bool = False) -> None:
    """One of the four conventions, or, with codebooks, a way to reassign (``reassign``).

    Raises:
        InvalidValueError: it is not.
    """
    known = get_args(CodebookDedup if codebooks else Dedup)
    if not isinstance(dedup, str) or dedup not in known:
        raise InvalidValueError(f"{op}: dedup must be one of {', '.join(known)}, got {dedup!r}")


def add_dedup_level(
    item_codes: Tensor, codebook_sizes: tuple[int, ...], dedup: Dedup
) -> tuple[Tensor, tuple[int, ...]]:
    """Appends one level so that every item has a semantic ID of its own.

    Among the n items of equal codes, in order of item id, item r = 0 .. n - 1 gets

    - "rank": r, for every item (TIGER); codebook size: the largest n.
    - "rank_if_shared": 0 if n = 1, else r + 1; codebook size: the largest n, plus 1 if any codes are shared.
    - "colliding_only": r if n > 1. A unique item needs no further code, but all rows of a tensor have one length: it
      gets a filler, the last code of the level. Codebook size: the largest n plus 1. No level if nothing collides.
    - "none": nothing; items go on sharing a semantic ID (the search gives them all).

    Args:
        item_codes: integer ``[N, L]``.
        codebook_sizes: L sizes.
        dedup: the convention.

    Returns:
        int32 ``[N, L + 1]`` (or ``[N, L]``) and the sizes of all its levels.

    Raises:
        InvalidTypeError: item_codes are not integers.
        InvalidValueError: a wrong shape or convention, or a code outside its codebook.

    Notes:
        One sort: O(N log N); a million items of 4 levels take about half a second. Deterministic.

    Source: the three conventions in use by published systems; the filler is ours.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers.collisions.dedup import add_dedup_level
        >>> codes, sizes = add_dedup_level(torch.tensor([[7], [3], [7]]), (8,), "rank")
        >>> codes.tolist(), sizes
        ([[7, 0], [3, 0], [7, 1]], (8, 2))
    """
    sizes = check_codebook_sizes("add_dedup_level", codebook_sizes)
    check_item_codes("add_dedup_level", item_codes, sizes)
    return resolve_by_level(item_codes, sizes, dedup)[:2]


def resolve_by_level(item_codes: Tensor, codebook_sizes: tuple[int, ...], dedup: Dedup) -> Resolved:
    """``add_dedup_level`` that also reports what it found."""
    check_dedup("add_dedup_level", dedup)
    count, levels = item_codes.shape
    groups = group_items(item_codes)
    counts = groups.counts(levels)
    largest, different = int(counts.max()), counts.numel()
    codes = item_codes.detach().to("cpu", torch.int32)
    sizes = codebook_sizes
    if dedup in ("rank", "rank_if_shared") or (dedup == "colliding_only" and largest > 1):
        rank = torch.empty(count, dtype=torch.int64)
        rank[groups.order] = groups.ranks(levels)
        shared = torch.empty(count, dtype=torch.bool)
        shared[groups.order] = (counts > 1)[groups.numbers(levels)]
        if dedup == "rank":
            size, code = largest, rank
        elif dedup == "rank_if_shared":
            size, code = (largest + 1 if largest > 1 else 1), torch.where(shared, rank + 1, 0)
        else:
            size, code = largest + 1, torch.where(shared, rank, largest)
        codes, sizes = torch.cat([codes, code.to(torch.int32).unsqueeze(1)], 1), (*sizes, size)
    rate = (count - different) / count
    resolution = Resolution(
        method=dedup,
        num_items=count,
        groups=int((counts > 1).sum()),
        largest_group=largest,
        items_touched=0 if dedup == "none" else int(counts[counts > 1].sum()),
        collision_rate_before=rate,
        collision_rate_after=rate if dedup == "none" else 0.0,
        level_added=sizes[-1] if len(sizes) > levels else 0,
    )
    return Resolved(codes, sizes, resolution)

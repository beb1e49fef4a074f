"""Items of equal codes moved to codes of their own: to the nearest free one, or spread by Sinkhorn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.checks import require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers.clustering.balance import check_epsilon
from genrec_fast.tokenizers.codes import check_codebooks, check_item_codes
from genrec_fast.tokenizers.collisions.dedup import resolve_by_level
from genrec_fast.tokenizers.collisions.groups import group_items
from genrec_fast.tokenizers.collisions.resolution import Resolution, Resolved
from genrec_fast.tokenizers.collisions.room import children, room
from genrec_fast.tokenizers.collisions.sinkhorn import potentials

Reassign = Literal["nearest_free", "sinkhorn"]
WhenFull = Literal["other_prefix", "level", "share"]

_BLOCK = 1 << 22  # values of vectors at a time
_CELLS = 1 << 22  # of the table of room, nodes x codes, at a time
_UNLIMITED = 1 << 62


def reassign(
    item_codes: Tensor,
    vectors: Tensor,
    codebooks: Sequence[Tensor],
    *,
    method: Reassign = "nearest_free",
    when_full: WhenFull = "other_prefix",
    epsilon: float = 0.003,
    iterations: int = 50,
) -> Resolved:
    """Gives items of equal codes another code of the last level, so that no two share a semantic ID.

    "nearest_free": of the items of equal codes the first (lowest item id) stays. The others of a prefix of L - 1 codes
    are served in order of item id; each takes the free code k of the last level that is nearest to what the prefix
    leaves of it (least ``|c_k|^2 / 2 - r . c_k`` in float64, the lower code of equals), and that code is free no more.

    "sinkhorn": all items of equal codes under a prefix give up theirs and share out the codes that the prefix's other
    items do not have: the entropic transport plan of least total distance in which each item has mass 1 and each code
    takes at most 1 gives every code a price; then items are served as above, by distance plus price. As in LC-Rec,
    distances are scaled to [-1, 1] first.

    Items that find all codes under their prefix taken, in order of item id the last:

    - "other_prefix": are served the same way (nearest code with room below, prices are 0) under their prefix of L - 2
      codes, down to the last level; where that is full too, under that of L - 3, and so on. All items find a place
      unless there are more items than semantic IDs; the rest then shares.
    - "level": keep their codes, and a dedup level is added (rank, see ``add_dedup_level``), if there are any.
    - "share": keep their codes and go on sharing.

    Args:
        item_codes: integer ``[N, L]``.
        vectors: float ``[N, D]``: what was coded: features, or an autoencoder's latents.
        codebooks: L of float ``[K_l, D]``; codes stand for the sum of their vectors.
        method: see above.
        when_full: see above.
        epsilon: of Sinkhorn (0.003: LC-Rec); the larger the less the prices.
        iterations: of Sinkhorn (50: LC-Rec).

    Returns:
        Codes, sizes, and what was done: ``str(resolved.resolution)`` says it.

    Raises:
        InvalidTypeError: a wrong dtype.
        InvalidValueError: a wrong shape, a code outside its codebook, values that are not finite, or another setting.

    Notes:
        One sort; then all prefixes are served at once, round r serving the r-th of each. Deterministic.
        A million items with 1 % of them colliding take a few seconds, most of it the distortion of the whole catalog.

    Source: Sinkhorn at the last level: LC-Rec (arXiv:2311.09049, section 3.2.2; its plan gives all codes of the level
    equal shares, and collisions may stay). Nearest free code, at most one item a code, and full prefixes: ours.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import reassign
        >>> book = torch.tensor([[0.0], [1.0], [5.0]])
        >>> found = reassign(torch.tensor([[0], [0], [2]]), torch.tensor([[0.0], [0.1], [5.0]]), [book])
        >>> found.item_codes.tolist(), found.resolution.collision_rate_after
        ([[0], [1], [2]], 0.0)
    """
    books, sizes = _checked(item_codes, vectors, codebooks)
    if not isinstance(method, str) or method not in get_args(Reassign):
        raise InvalidValueError(f"reassign: method must be one of {', '.join(get_args(Reassign))}, got {method!r}")
    if not isinstance(when_full, str) or when_full not in get_args(WhenFull):
        raise InvalidValueError(
            f"reassign: when_full must be one of {', '.join(get_args(WhenFull))}, got {when_full!r}"
        )
    epsilon = check_epsilon("reassign", epsilon)
    iterations = whole_number("reassign", "iterations", iterations)
    source = vectors.detach().to("cpu")
    before = item_codes.detach().to("cpu", torch.int64)
    codes, (count, levels) = before.clone(), before.shape

    groups = group_items(before)
    counts, ranks = groups.counts(levels), groups.ranks(levels)
    shared = (counts > 1)[groups.numbers(levels)]
    waiting = groups.order[shared if method == "sinkhorn" else ranks > 0].sort().values
    placed = torch.ones(count, dtype=torch.bool)
    placed[waiting] = False
    deepest = 0 if when_full == "other_prefix" else levels - 1
    for first in range(levels - 1, deepest - 1, -1):
        # `waiting` looks for a place under its prefix of `first` codes, then further down where room is certain
        moving = waiting
        for level in range(first, levels):
            if moving.numel() == 0:
                break
            residual = _residuals(source, codes, books, moving, level)
            prices = None
            if method == "sinkhorn" and first == levels - 1:
                prices = potentials(codes, placed, moving, residual, books[level], epsilon, iterations)
            choice = _serve(codes, placed, moving, residual, books, level, prices)
            found = choice >= 0
            if level == first:
                waiting = moving[~found]
            moving = moving[found]
            codes[moving, level] = choice[found]
        placed[moving] = True
    codes[waiting] = before[waiting]  # no place: they keep what they had

    changed = codes != before
    touched = changed.any(1)
    first_changed = torch.bincount(changed[touched].int().argmax(1), minlength=levels)
    different = group_items(codes).counts(levels)
    sum_before = _distortion(source, before, books, None)
    moved = touched.nonzero().squeeze(1)
    added = _distortion(source, codes, books, moved) - _distortion(source, before, books, moved)
    out, out_sizes, level_added = codes.to(torch.int32), sizes, 0
    after = (count - different.numel()) / count
    if when_full == "level" and after > 0:
        out, out_sizes, _ = resolve_by_level(out, sizes, "rank")
        level_added, after = out_sizes[-1], 0.0
    resolution = Resolution(
        method=method,
        num_items=count,
        groups=int((counts > 1).sum()),
        largest_group=int(counts.max()),
        items_touched=moved.numel(),
        collision_rate_before=(count - counts.numel()) / count,
        collision_rate_after=after,
        level_added=level_added,
        moved_by_level=tuple(first_changed.tolist()),
        left_over=waiting.numel(),
        distortion_before=sum_before / source.numel(),
        distortion_after=max(0.0, sum_before + added) / source.numel(),
    )
    return Resolved(out, out_sizes, resolution)


def _serve(
    codes: Tensor,
    placed: Tensor,
    moving: Tensor,
    residual: Tensor,
    books: list[Tensor],
    level: int,
    prices: Tensor | None,
) -> Tensor:
    """Each moving item's code of ``level``: the nearest with room below, items of one prefix in order of item id.

    Args:
        codes: int64 ``[N, L]``; of moving items the first ``level`` are read. Placed items have different codes.
        placed: bool ``[N]``.
        moving: int64 ``[m]``, ascending.
        residual: float32 ``[m, D]``.
        books: float32 ``[K_l, D]`` per level.
        level: where to choose.
        prices: float64 ``[nodes, K]`` to add to half the squared distance, nodes as ``children`` numbers them; or None.

    Returns:
        int64 ``[m]``; -1 where no code has room.
    """
    book = books[level]
    size = book.shape[0]
    below = min(math.prod(int(b.shape[0]) for b in books[level + 1 :]), _UNLIMITED)  # semantic IDs below one child
    own, keys, counts = children(codes, placed, moving, level, size)
    # equal vectors get equal distances whatever the order of sums: the lower code then wins
    vectors, which = torch.unique(book.double(), dim=0, return_inverse=True)
    if vectors.shape[0] == size:
        vectors, which = book.double(), None
    half = vectors.square().sum(1) / 2
    order = torch.argsort(own, stable=True)
    items = torch.bincount(own)
    begins = items.cumsum(0) - items
    choice = torch.full((moving.numel(),), -1, dtype=torch.int64)
    nodes = torch.argsort(items, descending=True, stable=True)  # nodes of similar numbers of items share a table
    for part in nodes.split(max(1, _CELLS // size)):
        table = room(part, keys, counts, size, below)
        total = table.double().sum(1)  # in doubles: room may be vast
        for turn in range(int(items[part[0]])):
            active = ((items[part] > turn) & (total > turn)).nonzero().squeeze(1)
            if active.numel() == 0:
                break
            item = order[begins[part[active]] + turn]
            scores = half - residual[item].double() @ vectors.T
            if which is not None:
                scores = scores[:, which]
            if prices is not None:
                scores += prices[part[active]]
            scores[table[active] <= 0] = math.inf
            best = scores.argmin(1)
            table[active, best] -= 1
            choice[item] = best
    return choice


def _residuals(vectors: Tensor, codes: Tensor, books: list[Tensor], items: Tensor, level: int) -> Tensor:
    """float32 ``[m, D]``: what the first ``level`` codes leave of ``items``' vectors, rounded as in rq_encode."""
    residual = vectors[items].to(torch.float32)
    for column, book in zip(codes[items, :level].T, books, strict=False):
        residual = residual - book[column]
    return residual


def _distortion(vectors: Tensor, codes: Tensor, books: list[Tensor], items: Tensor | None) -> float:
    """Sum of squared differences from the sums of the codes' vectors, of all items or of some."""
    rows = max(1, _BLOCK // vectors.shape[1])
    total = 0.0
    parts = torch.arange(codes.shape[0]).split(rows) if items is None else items.split(rows)
    for part in parts:
        if part.numel():
            block = slice(int(part[0]), int(part[-1]) + 1) if items is None else part
            decoded = ops.rq_decode(codes[block].to(torch.int32), books)
            total += float((vectors[block].to(torch.float32) - decoded).double().square().sum())
    return total


def _checked(item_codes: Tensor, vectors: Tensor, codebooks: Sequence[Tensor]) -> tuple[list[Tensor], tuple[int, ...]]:
    check_codebooks("reassign", codebooks)
    sizes = tuple(book.shape[0] for book in codebooks)
    check_item_codes("reassign", item_codes, sizes)
    require_tensors("reassign", None, vectors=vectors)
    if not vectors.is_floating_point():
        raise InvalidTypeError(f"reassign: vectors must be a float tensor [N, D], got {vectors.dtype}")
    shape = [item_codes.shape[0], codebooks[0].shape[1]]
    if list(vectors.shape) != shape:
        raise InvalidValueError(f"reassign: vectors must be {shape}, got {list(vectors.shape)}")
    finite = vectors.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise InvalidValueError(f"reassign: vectors must be finite, got NaN or infinity in row {row}")
    return [book.detach().to("cpu", torch.float32).contiguous() for book in codebooks], sizes

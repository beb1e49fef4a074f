"""Rows of a trie to items on a card: ``csrc/cuda/expand_rows.cuh``. Nothing is read back."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops import _cuda
from genrec_fast.ops._cuda_trie import PackedOffsets
from genrec_fast.ops._filters import ascending
from genrec_fast.ops.trie_offsets import require_packed

_THREADS, _TILE = 256, 1024  # expand_threads and expand_tile of the source
_BLOCKS, _PART_ITEMS = 512, 8192  # that share a card, and that a user's blocks should have at least
_MANY_KEYS, _MANY_THREADS = 4096, 1024  # from so many on, so many threads look for a user's best

_POINTER, _LONG = ctypes.c_void_p, ctypes.c_longlong


class _ExpandRows(ctypes.Structure):
    """``ExpandRows`` of the source."""

    _fields_ = (
        ("rows", _POINTER),
        ("ranks", _POINTER),
        ("leaf", PackedOffsets),
        ("leaf_items", _POINTER),
        ("num_items", _LONG),
        *((name, _POINTER) for name in ("allowed", "exclude_offsets", "exclude")),
        *((name, _LONG) for name in ("allowed_stride", "users", "beams", "kept", "parts", "capacity")),
        *((name, _POINTER) for name in ("buffers", "sources", "found", "beams_of_found", "sorted")),
    )


def expand_rows(
    rows: Tensor,
    codes: Tensor,
    scores: Tensor,
    ranks: Tensor,
    leaf_bases: Tensor,
    leaf_deltas: Tensor,
    leaf_items: Tensor,
    k: int,
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``genrec_fast::expand_rows``; where an excluded id is not there, the user's items are -1 and scores NaN.

    Raises:
        InvalidTypeError: a tensor of another dtype than the op takes.
        InvalidValueError: tensors that do not fit together.
    """
    users, beams = rows.shape
    for name, tensor, dtypes in (
        ("rows", rows, (torch.int32,)),
        ("codes", codes, (torch.int32,)),
        ("scores", scores, (torch.float32,)),
        ("ranks", ranks, (torch.float32, torch.float64)),
        ("leaf_items", leaf_items, (torch.int32,)),
    ):
        if tensor.dtype not in dtypes:
            raise InvalidTypeError(f"expand_rows: {name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    require_packed("leaf", leaf_bases, leaf_deltas)
    leaf_bases, leaf_deltas, leaf_items = (part.contiguous() for part in (leaf_bases, leaf_deltas, leaf_items))
    if scores.shape != rows.shape or ranks.shape != rows.shape or codes.shape[:2] != rows.shape:
        raise InvalidValueError(
            f"expand_rows: codes, scores and ranks must be of rows {list(rows.shape)}, "
            f"got {list(codes.shape)}, {list(scores.shape)} and {list(ranks.shape)}"
        )
    if allowed is not None and (
        allowed.dtype != torch.bool
        or tuple(allowed.shape) not in ((1, leaf_items.numel()), (users, leaf_items.numel()))
    ):
        raise InvalidValueError(
            f"expand_rows: allowed must be bool [1 or {users}, {leaf_items.numel()}], "
            f"got {allowed.dtype} {list(allowed.shape)}"
        )
    if exclude_offsets is not None and exclude_offsets.numel() != users + 1:
        raise InvalidValueError(f"expand_rows: exclude must be for {users} users, got {exclude_offsets.numel() - 1}")
    num_rows, num_items, levels = leaf_deltas.numel() - 1, leaf_items.numel(), codes.shape[2]
    items = rows.new_empty((users, k), dtype=torch.int64)
    out_codes, out_scores = codes.new_empty(users, k, levels), scores.new_empty(users, k)
    if users == 0 or beams == 0:
        return items.fill_(-1), out_codes.fill_(-1), out_scores.fill_(-torch.inf)
    rows, codes, scores = rows.contiguous(), codes.contiguous(), scores.contiguous()
    ranks = (ranks if ranks.dtype == torch.float32 else _places(ranks)).contiguous()
    if exclude_ids is not None and exclude_offsets is not None:
        exclude_ids, exclude_offsets = ascending(exclude_ids, exclude_offsets, num_items)
    most = min(num_items, beams + num_items - num_rows)  # of a user: every row has an item
    kept = max(1, min(k, most))
    parts = max(1, min(_BLOCKS // users, most // _PART_ITEMS))
    capacity = 2 * kept + _TILE
    allowed = None if allowed is None else allowed.contiguous()
    made = (
        items.new_empty(users, parts, capacity),
        rows.new_empty(users, parts, capacity),
        items.new_empty(users, parts, kept),
        rows.new_empty(users, parts, kept),
        items.new_empty(users, kept),
    )
    expand = _ExpandRows(
        *(rows.data_ptr(), ranks.data_ptr()),
        PackedOffsets(leaf_bases.data_ptr(), leaf_deltas.data_ptr(), num_rows + 1, leaf_deltas.element_size()),
        *(leaf_items.data_ptr(), num_items),
        *(None if part is None else part.data_ptr() for part in (allowed, exclude_offsets, exclude_ids)),
        *(num_items if allowed is not None and len(allowed) > 1 else 0, users, beams, kept, parts, capacity),
        *(part.data_ptr() for part in made),
    )
    _cuda.launch("expand_rows", "expand_rows_items", (users * parts, 1, 1), (_THREADS, 1, 1), 0, (expand, rows))
    threads = _MANY_THREADS if parts * kept >= _MANY_KEYS else _THREADS
    given = (codes, scores, _cuda.int32(levels), _cuda.int64(k), items, out_codes, out_scores)
    _cuda.launch("expand_rows", "expand_rows_best", (users, 1, 1), (threads, 1, 1), 0, (expand, *given))
    return items, out_codes, out_scores


def _places(ranks: Tensor) -> Tensor:
    """float32 that order as ``ranks`` do, equal ones equal: less the number of different ones above (below 2^24)."""
    values, order = ranks.sort(dim=1, descending=True)
    above = torch.zeros_like(order)
    above[:, 1:] = (values[:, 1:] < values[:, :-1]).cumsum(1)
    return torch.empty_like(values, dtype=torch.float32).scatter_(1, order, -above.float())

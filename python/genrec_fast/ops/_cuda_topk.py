"""The largest inner products on a card; ``csrc/cuda/topk_products.cuh`` and ``topk_inner_product.cuh``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.ops import _cuda, _rq_levels
from genrec_fast.ops._filters import lengthened

_GROUP, _ROWS = 32, 128  # items of a group, and of a block
_SLOT_BYTES = _ROWS * (3 * 4 + 1)  # Slots of topk_products.cuh
_MANY_GROUPS = 4096  # from here on a block of 1,024 threads looks for a bar
_PARTS, _PART_BLOCKS = 64, 2048  # of the groups that are scored: at most, and blocks that share a card
_GROUP_BYTES = 256 << 20  # of what is kept of the groups: more queries are answered one part after the other


class _Search(ctypes.Structure):
    """``topk::Search`` of ``csrc/cuda/topk_products.cuh``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "rounded", "lengths", "bias", "allowed", "exclude_offsets")),
        *((name, ctypes.c_void_p) for name in ("exclude", "least", "bounds", "bars", "wrong", "keys", "counts")),
        ("sorted", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("num_queries", "num_items", "groups", "k", "parts", "capacity")),
        *((name, ctypes.c_longlong) for name in ("places", "allowed_stride")),
        *((name, ctypes.c_int) for name in ("depth", "padded")),
    )


def search(
    queries: Tensor,
    table: Tensor,
    k: int,
    bias: Tensor | None,
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See ``ops.topk_inner_product``.

    Memory: 4 bytes per query and 32 items, 256 MiB at most for more than 128 queries, and 8 (2 k + 64) bytes for each
    block that scores for a query (2048 for all, 64 for one at most).
    """
    queries, table = queries.float().contiguous(), table.contiguous()
    (count, depth), num_items = queries.shape, len(table)
    kept = max(1, min(k, num_items))
    scores, ids = queries.new_empty((count, kept)), queries.new_empty((count, kept), dtype=torch.int64)
    if count == 0 or num_items == 0:
        return queries.new_full((count, k), -torch.inf), ids.new_full((count, k), -1)
    groups, padded = -(-num_items // _GROUP), -(-depth // 16) * 16
    at_once = max(_ROWS, _GROUP_BYTES // (4 * groups))
    if count > at_once:
        found = []
        for first in range(0, count, at_once):
            some = slice(first, first + at_once)
            own = None if exclude_offsets is None else exclude_offsets[first : first + at_once + 1]
            rows = allowed if allowed is None or len(allowed) == 1 else allowed[some]
            found.append(search(queries[some], table, k, bias, rows, exclude_ids, own))
        return torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found])
    parts = max(1, min(_PARTS, _PART_BLOCKS // count, groups // _PARTS))
    capacity = min(2 * kept + 2 * _GROUP, (groups // parts + 2) * _GROUP)
    places = 1 << (kept - 1).bit_length()
    bias, allowed, exclude_ids = (None if part is None else part.contiguous() for part in (bias, allowed, exclude_ids))
    made = (
        queries.new_empty((count, padded), dtype=torch.int16),
        queries.new_empty((count, 2)),
        *(bias, allowed, exclude_offsets, exclude_ids),
        queries.new_empty((count, groups)),
        queries.new_empty((groups, 4)),
        queries.new_empty(count),
        queries.new_zeros(1, dtype=torch.int32),
        queries.new_empty((count, parts, capacity), dtype=torch.int64),
        queries.new_empty((count, parts), dtype=torch.int32),
        queries.new_empty((count, places), dtype=torch.int64),
    )
    stride = num_items if allowed is not None and len(allowed) > 1 else 0
    held = _Search(
        *(None if part is None else part.data_ptr() for part in (queries, *made)),
        *(count, num_items, groups, kept, parts, capacity, places, stride, depth, padded),
    )
    name = _rq_levels.ELEMENTS[table.dtype]
    blocks = min(-(-num_items // _ROWS), _rq_levels.MOST_BLOCKS)
    shared = _rq_levels.tile_bytes(padded) + _SLOT_BYTES
    staged = _rq_levels.staged_rows(queries, blocks, padded)
    _launch("queries", (-(-count * 16 // _ROWS), 1, 1), _ROWS, (held, queries))
    _launch(f"groups_{name}", (blocks, 1, 1), _ROWS, (held, table, staged), shared)
    _launch("bars", (count, 1, 1), 1024 if groups >= _MANY_GROUPS else _ROWS, (held, queries))
    _launch(f"scores_{name}", (count, parts, 1), _ROWS, (held, table))
    _launch("merge", (count, 1, 1), _ROWS, (held, scores, ids))
    return lengthened(scores, ids, k)


def _launch(part: str, grid: _cuda.Size, threads: int, arguments: _cuda.Arguments, shared: int = 0) -> None:
    _cuda.launch("topk_inner_product", f"topk_inner_product_{part}", grid, (threads, 1, 1), shared, arguments)

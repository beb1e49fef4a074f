"""Jagged rows on a card: moved, padded, added up and multiplied; ``csrc/cuda/jagged_rows.cuh``, ``jagged_product.cuh``.

Nothing is read back. Where offsets break their rules or an id is outside of its table, which cannot raise there,
results are bytes of 255: NaN in floats, -1 in integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops._cuda import emulates, int32, int64, launch

_ROWS, _PRODUCT = "jagged_rows", "jagged_product"
_THREADS = 256
_NO_LIMIT = 1 << 62
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_TILE, _TILE_BYTES = 64, 64 * (64 + 4) * 4  # rows of a product's block, and of one of its two operands


def valid_offsets(offsets: Tensor, total: int) -> Tensor:
    """int64 ``[1]``, not 0 where ``offsets`` (int64) run from 0 to ``total`` without decreasing."""
    valid = torch.empty(1, dtype=torch.int64, device=offsets.device)
    arguments = [offsets.contiguous(), int64(offsets.shape[0] - 1), int64(total), valid]
    launch(_ROWS, "jagged_rows_check", (1, 1, 1), (_THREADS, 1, 1), 0, arguments)
    return valid


def _blocks(threads: int) -> tuple[int, int, int]:
    return (-(-threads // _THREADS), 1, 1)


def _lanes(row: int, tensors: Sequence[Tensor]) -> tuple[int, int, int]:
    """How rows of ``row`` bytes are copied: bytes of a unit, units of a row, and log2 of the lanes that share a row."""
    unit = next(n for n in (16, 8, 4, 2, 1) if row % n == 0 and all(x.data_ptr() % n == 0 for x in tensors))
    units = row // unit
    return unit, units, min(5, max(units - 1, 0).bit_length())


def _row_bytes(values: Tensor, dims: int = 1) -> int:
    return values.shape[dims:].numel() * values.element_size()


def move(
    offsets: Tensor,
    values: Tensor,
    others: Tensor,
    *,
    starts: Tensor | None = None,
    row_step: int = 0,
    step: int = 0,
    limit: int = _NO_LIMIT,
    other_dims: int = 1,
    back: bool,
    beyond: int = 0,
    valid: Tensor,
) -> None:
    """Copies between element i of row r of ``values`` and element ``starts[r] + i`` of ``others``.

    Without ``starts`` it is element ``r * row_step + i * step``, for i below ``limit``. ``back``: to values, which hold
    bytes of ``beyond`` where the limit ends. ``others`` has ``other_dims`` dimensions of elements.
    """
    row = _row_bytes(values)
    if not row or not values.shape[0] + others.numel():
        return
    unit, units, shift = _lanes(row, (values, others))
    count = values.shape[0]
    arguments = [
        *(offsets.contiguous(), int64(offsets.shape[0] - 1), starts, int64(row_step), int64(step), int64(limit)),
        *(values, others, int64(count), int64(others.shape[:other_dims].numel()), int64(units), int32(shift)),
        *(int32(back), int32(beyond), valid),
    ]
    launch(_ROWS, f"jagged_rows_move_{unit}", _blocks(max(count, 1) << shift), (_THREADS, 1, 1), 0, arguments)


def pad(offsets: Tensor, values: Tensor, max_len: int, padding: Tensor, valid: Tensor) -> Tensor:
    """``[B, max_len, ...]``; ``padding`` is one element's item, of values' dtype."""
    values = values.contiguous()
    num_rows, row = offsets.shape[0] - 1, _row_bytes(values)
    out = torch.empty((num_rows, max_len, *values.shape[1:]), dtype=values.dtype, device=values.device)
    if not out.numel():
        return out
    unit, units, shift = _lanes(row, (values, out))
    arguments = [
        *(offsets.contiguous(), values, padding, int32(padding.element_size()), out, int64(num_rows * max_len)),
        *(int64(max_len), int64(units), int32(shift), valid),
    ]
    blocks = _blocks(num_rows * max_len << shift)
    launch(_ROWS, f"jagged_rows_pad_{unit}", blocks, (_THREADS, 1, 1), 0, arguments)
    return out


def gather(table: Tensor, ids: Tensor) -> Tensor:
    """``table[ids]``."""
    table, ids = table.contiguous(), ids.contiguous()
    out = torch.empty((*ids.shape, *table.shape[1:]), dtype=table.dtype, device=table.device)
    if not out.numel():
        return out
    unit, units, shift = _lanes(_row_bytes(table), (table, out))
    arguments = [table, int64(table.shape[0]), ids, out, int64(ids.numel()), int64(units), int32(shift)]
    launch(_ROWS, f"jagged_rows_gather_{unit}", _blocks(ids.numel() << shift), (_THREADS, 1, 1), 0, arguments)
    return out


def sum_rows(values: Tensor, order: Tensor | None, offsets: Tensor, valid: Tensor) -> Tensor:
    """float32 ``[B, ...]``: the sum of each row's values (of ``values[order[e]]``), one after the other."""
    values, num_rows = values.contiguous(), offsets.shape[0] - 1
    out = torch.empty((num_rows, *values.shape[1:]), device=values.device)
    width = values.shape[1:].numel()
    arguments = [values, order, offsets.contiguous(), int64(num_rows), int64(width), out, valid]
    kernel = f"jagged_rows_sum_{_NAMES[values.dtype]}"
    launch(_ROWS, kernel, _blocks(num_rows * width), (_THREADS, 1, 1), 0, arguments)
    return out


def checked_offsets(offsets: Tensor, total: int) -> Tensor:
    """The offsets, or -1 everywhere where they break their rules."""
    offsets = offsets.contiguous()
    out = torch.empty_like(offsets)
    arguments = [offsets, int64(offsets.numel()), out, valid_offsets(offsets, total)]
    launch(_ROWS, "jagged_rows_checked", _blocks(offsets.numel()), (_THREADS, 1, 1), 0, arguments)
    return out


def checked_ids(ids: Tensor, size: int) -> Tensor:
    """The ids, -1 for those outside of [0, size)."""
    ids = ids.contiguous()
    out = torch.empty_like(ids)
    arguments = [ids, int64(ids.numel()), int64(size), out]
    launch(_ROWS, "jagged_rows_checked_ids", _blocks(ids.numel()), (_THREADS, 1, 1), 0, arguments)
    return out


def only_where(fine: Tensor, values: Tensor) -> Tensor:
    """``values`` (integers), or -1 everywhere where not all of ``fine`` holds: known on the card alone."""
    return torch.where(fine.all(), values, -1)


def runs_here(tensor: Tensor) -> bool:
    """Whether ops of this tensor run their kernels for cards, which cannot raise for values."""
    return tensor.is_cuda or emulates()


def _whole_vectors(*tensors: Tensor) -> bool:
    return all(x.data_ptr() % 16 == 0 and x.shape[-1] % 4 == 0 for x in tensors)


def dense_product(
    values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool, valid: Tensor
) -> Tensor:
    """float32 ``[E, M]``: every element times its row's matrix, plus its row's bias."""
    values, dense = values.contiguous(), dense.contiguous()
    columns, num_rows = dense.shape[1 if transposed else 2], offsets.shape[0] - 1
    out = torch.empty(values.shape[0], columns, device=values.device)
    if not out.numel():
        return out
    arguments = [
        *(offsets.contiguous(), int64(num_rows), int64(values.shape[0]), int32(values.shape[1]), int32(columns)),
        *(int32(transposed), int32(_whole_vectors(values, dense)), values, dense),
        *(None if bias is None else bias.contiguous(), out, valid),
    ]
    grid = (values.shape[0] // _TILE + num_rows + 1, -(-columns // _TILE), 1)
    launch(_PRODUCT, "jagged_product_dense", grid, (128, 1, 1), 2 * _TILE_BYTES, arguments)
    return out


def outer_product(a: Tensor, b: Tensor, offsets: Tensor, valid: Tensor) -> Tensor:
    """float32 ``[B, D, M]``: the sum of every row's outer products."""
    a, b = a.contiguous(), b.contiguous()
    depth, columns, num_rows = a.shape[1], b.shape[1], offsets.shape[0] - 1
    out = torch.empty(num_rows, depth, columns, device=a.device)
    if not out.numel():
        return out
    arguments = [
        *(offsets.contiguous(), int64(num_rows), int64(a.shape[0]), int32(depth), int32(columns)),
        *(int32(_whole_vectors(a, b)), a, b, out, valid),
    ]
    grid = (num_rows, -(-depth // _TILE) * -(-columns // _TILE), 1)
    launch(_PRODUCT, "jagged_product_outer", grid, (128, 1, 1), 2 * _TILE_BYTES, arguments)
    return out

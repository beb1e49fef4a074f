"""Jagged rows side by side and end to end again: each op the other's gradient.

Everywhere: ``values`` ``[E, ...]`` hold the elements of all rows end to end; ``offsets``, int64 or int32 ``[B + 1]``,
run from 0 to E without decreasing (checked, always, before anything is read through them); row r is
``values[offsets[r] : offsets[r + 1]]``. Names beside fbgemm's and torchrec's: docs/jagged.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, require_room, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda_jagged as cuda
from genrec_fast.ops._registry import core, define, differentiable
from genrec_fast.ops._tensors import allocate, check_offsets, require_offsets, require_values
from genrec_fast.ops.reference import jagged_pad as reference


def _has(dtype: torch.dtype, infinity: float) -> bool:
    return math.isinf(infinity) and not str(dtype).endswith(("fn", "fnuz", "fnu"))  # float8 without infinities


@door
def to_padded(values: Tensor, offsets: Tensor, max_len: int, padding_value: float = 0) -> Tensor:
    """Rows side by side: ``out[r, i] = values[offsets[r] + i]``, ``padding_value`` behind a row's end.

    Args:
        values: ``[E, ...]``, any dtype.
        offsets: see above.
        max_len: N of the result, at least 0; what a longer row has beyond it is left out (and its gradient 0).
        padding_value: a number that values' dtype holds.

    Returns:
        ``[B, N, ...]`` in values' dtype.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a wrong shape, device, max_len, padding_value, or offsets that break their rules.

    Notes:
        Writes the result once. Differentiable, to any order.

    Source:
        A layout, no publication; fbgemm's ``jagged_to_padded_dense``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> gf.ops.to_padded(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]), 2, padding_value=-1).tolist()
        [[1, -1], [2, 3]]
    """
    op = "to_padded"
    values = require_values(op, "values", values, 1, "[E, ...]")
    rows = require_offsets(op, "offsets", offsets, values.device)
    if not isinstance(padding_value, int | float):
        raise InvalidTypeError(f"{op}: padding_value must be a number, got {shown(padding_value)}")
    decimal = values.dtype.is_floating_point or values.dtype.is_complex
    if isinstance(padding_value, int):
        padding_value = whole_number(op, "padding_value", int(padding_value), -(2**63), 2**64 - 1)
    elif decimal and abs(padding_value) > torch.finfo(values.dtype).max and not _has(values.dtype, padding_value):
        raise InvalidValueError(f"{op}: padding_value must be a {values.dtype}, got {padding_value}")
    if not decimal:
        limits = None if values.dtype == torch.bool else torch.iinfo(values.dtype)
        low, high = (0, 1) if limits is None else (int(limits.min), int(limits.max))
        if padding_value != padding_value or not low <= padding_value <= high or int(padding_value) != padding_value:
            raise InvalidValueError(f"{op}: padding_value must be a {values.dtype}, got {shown(padding_value)}")
    out: Tensor = _to_padded_op(values, rows, whole_number(op, "max_len", max_len, 0, INT64[1]), padding_value)
    return out


@door
def from_padded(dense: Tensor, offsets: Tensor, *, total: int | None = None) -> Tensor:
    """Rows end to end: element i of row r is ``dense[r, i]``; what stands behind a row's end is left out.

    Args:
        dense: ``[B, N, ...]``, any dtype.
        offsets: see above; no row longer than N.
        total: E, where the op is compiled into a graph that must not wait for values; ``None``: ``offsets[-1]``.

    Returns:
        ``[E, ...]`` in dense's dtype.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a wrong shape or device, a row longer than N, or offsets that break their rules.

    Notes:
        Reads E elements. Differentiable, to any order.

    Source:
        A layout, no publication; fbgemm's ``dense_to_jagged`` (which writes beyond its result where ``total`` is too
        small: here that is an error).

    Example:
        >>> import torch, genrec_fast as gf
        >>> gf.ops.from_padded(torch.tensor([[1, 0], [2, 3]]), torch.tensor([0, 1, 3])).tolist()
        [1, 2, 3]
    """
    op = "from_padded"
    dense = require_values(op, "dense", dense, 2, "[B, N, ...]")
    rows = require_offsets(op, "offsets", offsets, dense.device)
    if dense.shape[0] != rows.shape[0] - 1:
        raise InvalidValueError(f"{op}: dense must be [{rows.shape[0] - 1}, N, ...], got {list(dense.shape)}")
    size = max(int(rows[-1]), 0) if total is None else whole_number(op, "total", total, 0, INT64[1])
    out: Tensor = _from_padded_op(dense, rows, size, True)
    return out


# ---- the ops behind them


def _check_to(values: Tensor, offsets: Tensor) -> None:
    check_offsets("to_padded", "offsets", offsets, values.shape[0])


def _to_padded(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    _check_to(values, offsets)
    out = allocate("to_padded", "out", offsets.shape[0] - 1, max_len, *values.shape[1:], dtype=values.dtype)
    if out.numel():
        item = _item(values, padding)
        core.jagged_pad(offsets=offsets, values=values, padding=item, padded=out, num_threads=torch.get_num_threads())
    return out


def _item(values: Tensor, padding: float) -> Tensor:
    whole = not (values.dtype.is_floating_point or values.dtype.is_complex)
    return torch.full((), int(padding) if whole else padding, dtype=values.dtype, device=values.device)


def _to_padded_cuda(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    require_room("to_padded", "out", (offsets.shape[0] - 1, max_len, *values.shape[1:]), values.element_size())
    valid = cuda.valid_offsets(offsets, values.shape[0])
    return cuda.pad(offsets, values, max_len, _item(values, padding), valid)


_to_padded_op = define(
    "to_padded(Tensor values, Tensor offsets, SymInt max_len, Scalar padding) -> Tensor",
    kernels={"cpu": _to_padded, "cuda": _to_padded_cuda},
    twin=reference.to_padded,
    fake=lambda values, offsets, max_len: values.new_empty((offsets.shape[0] - 1, max_len, *values.shape[1:])),
    check=_check_to,
)


def _check_from(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> None:
    check_offsets("from_padded", "offsets", offsets, total)
    lengths = offsets.diff()
    if fit and lengths.numel() and int(lengths.max()) > dense.shape[1]:
        row = int((lengths > dense.shape[1]).nonzero()[0])
        raise InvalidValueError(
            f"from_padded: offsets must give no row more than dense's {dense.shape[1]}, "
            f"got {int(lengths[row])} in row {row}"
        )


def _from_padded(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> Tensor:
    _check_from(dense, offsets, total, fit)
    out = allocate("from_padded", "out", total, *dense.shape[2:], dtype=dense.dtype)
    if out.numel():
        core.jagged_unpad(offsets=offsets, padded=dense, values=out, num_threads=torch.get_num_threads())
    return out


def _from_padded_cuda(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> Tensor:
    require_room("from_padded", "out", (total, *dense.shape[2:]), dense.element_size())
    dense, length = dense.contiguous(), dense.shape[1]
    out = dense.new_empty((total, *dense.shape[2:]))
    valid = cuda.valid_offsets(offsets, total)
    cuda.move(
        offsets,
        out,
        dense,
        row_step=length,
        step=1,
        limit=length,
        other_dims=2,
        back=True,
        beyond=255 if fit else 0,
        valid=valid,
    )
    return out


_from_padded_op = define(
    "from_padded(Tensor dense, Tensor offsets, SymInt total, bool fit) -> Tensor",
    kernels={"cpu": _from_padded, "cuda": _from_padded_cuda},
    twin=reference.from_padded,
    fake=lambda dense, total: dense.new_empty((total, *dense.shape[2:])),
    check=_check_from,
)


def _keep_sides(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.total, ctx.length = inputs[0].shape[:1], inputs[0].shape[1:2]


differentiable(
    "to_padded",
    lambda ctx, grad: (_from_padded_op(grad, ctx.saved_tensors[0], ctx.total[0], False), None, None, None),
    _keep_sides,
)
differentiable(
    "from_padded",
    lambda ctx, grad: (_to_padded_op(grad, ctx.saved_tensors[0], ctx.length[0], 0), None, None, None),
    _keep_sides,
)

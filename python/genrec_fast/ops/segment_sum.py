"""Jagged rows added up, and one value spread over its row: each op the other's gradient.

``values``, ``offsets`` and their rules as in ``jagged_pad``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import require_room
from genrec_fast.base.errors import InvalidTypeError, door
from genrec_fast.ops import _cuda_jagged as cuda
from genrec_fast.ops._registry import core, define, differentiable, twins
from genrec_fast.ops._tensors import FLOATS, allocate, check_offsets, require_offsets, require_values
from genrec_fast.ops.reference import segment_sum as reference

_SUMMED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _summed(op: str, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    values = require_values(op, "values", values, 1, "[E, ...]")
    if values.dtype not in _SUMMED:
        raise InvalidTypeError(f"{op}: values must be float32, bfloat16 or float16 [E, ...], got {values.dtype}")
    rows = require_offsets(op, "offsets", offsets, values.device)
    return summed_rows(values, rows, op), rows


@door
def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """``out[r]`` is the sum of row r's elements; of an empty row 0.

    Args:
        values: float32, bfloat16 or float16 ``[E, ...]`` (float64: the plain twin runs, for gradient checks).
        offsets: see above.

    Returns:
        ``[B, ...]`` in values' dtype.

    Raises:
        InvalidTypeError: an argument of another kind or dtype.
        InvalidValueError: a wrong shape or device, or offsets that break their rules.

    Notes:
        One pass; every sum runs in float32 in the order of its elements: equal bits on every instruction set and number
        of threads. Differentiable, to any order.

    Source:
        A reduction, no publication; fbgemm's ``segment_sum_csr``, torch's ``segment_reduce``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> gf.ops.segment_sum(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1, 3])).tolist()
        [1.0, 0.0, 5.0]
    """
    return _summed("segment_sum", values, offsets)[0].to(values.dtype)


@door
def segment_mean(values: Tensor, offsets: Tensor) -> Tensor:
    """``out[r]`` is the mean of row r's elements; of an empty row 0. All else as ``segment_sum``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> gf.ops.segment_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1, 3])).tolist()
        [1.0, 0.0, 3.0]
    """
    sums, rows = _summed("segment_mean", values, offsets)
    counts = rows.diff().clamp(min=1).view(-1, *(1,) * (sums.dim() - 1))
    return (sums / counts).to(values.dtype)


# ---- the ops behind them


def _check_rows(values: Tensor, offsets: Tensor, op: str) -> None:
    check_offsets(op, "offsets", offsets, values.shape[0])


def _segment_sum(values: Tensor, offsets: Tensor, op: str) -> Tensor:
    if values.dtype not in FLOATS:  # float64, for gradient checks
        summed: Tensor = twins["segment_sum"](values, offsets, op)
        return summed
    _check_rows(values, offsets, op)
    out = allocate(op, "out", offsets.shape[0] - 1, *values.shape[1:])
    add_rows(values, None, offsets, None, out)
    return out


def add_rows(values: Tensor, order: Tensor | None, offsets: Tensor, to: Tensor | None, out: Tensor) -> None:
    """``out[r]`` (or ``out[to[r]]``) becomes the sum of row r's values (or ``values[order[e]]``), in float32."""
    core.segment_sum(values=values, order=order, offsets=offsets, to=to, out=out, num_threads=torch.get_num_threads())


def _segment_sum_cuda(values: Tensor, offsets: Tensor, op: str) -> Tensor:
    if values.dtype not in FLOATS:
        summed: Tensor = twins["segment_sum"](values, offsets, op)
        return summed
    return cuda.sum_rows(values, None, offsets, cuda.valid_offsets(offsets, values.shape[0]))


summed_rows = define(
    "segment_sum(Tensor values, Tensor offsets, str op) -> Tensor",
    kernels={"cpu": _segment_sum, "cuda": _segment_sum_cuda},
    twin=reference.segment_sum,
    fake=lambda values, offsets: values.new_empty(
        (offsets.shape[0] - 1, *values.shape[1:]), dtype=torch.promote_types(values.dtype, torch.float32)
    ),
    check=_check_rows,
)


def _check_spread(offsets: Tensor, total: int, op: str) -> None:
    check_offsets(op, "offsets", offsets, total)


def _spread(rows: Tensor, offsets: Tensor, total: int, op: str) -> Tensor:
    _check_spread(offsets, total, op)
    out = allocate(op, "out", total, *rows.shape[1:], dtype=rows.dtype)
    if out.numel():
        core.jagged_spread(offsets=offsets, rows=rows, values=out, num_threads=torch.get_num_threads())
    return out


def _spread_cuda(rows: Tensor, offsets: Tensor, total: int, op: str) -> Tensor:
    require_room(op, "out", (total, *rows.shape[1:]), rows.element_size())
    out = rows.new_empty((total, *rows.shape[1:]))
    cuda.move(offsets, out, rows.contiguous(), row_step=1, back=True, valid=cuda.valid_offsets(offsets, total))
    return out


spread = define(
    "jagged_spread(Tensor rows, Tensor offsets, SymInt total, str op) -> Tensor",
    kernels={"cpu": _spread, "cuda": _spread_cuda},
    twin=reference.spread,
    fake=lambda rows, total: rows.new_empty((total, *rows.shape[1:])),
    check=_check_spread,
)


def _keep_rows(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.size, ctx.dtype, ctx.op = inputs[0].shape[0], inputs[0].dtype, inputs[-1]


differentiable(
    "segment_sum",
    lambda ctx, grad: (spread(grad, ctx.saved_tensors[0], ctx.size, ctx.op).to(ctx.dtype), None, None),
    _keep_rows,
)
differentiable(
    "jagged_spread",
    lambda ctx, grad: (summed_rows(grad, ctx.saved_tensors[0], ctx.op).to(ctx.dtype), None, None, None),
    _keep_rows,
)

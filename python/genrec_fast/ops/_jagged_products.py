"""The torch ops behind ``jagged_pack``'s products and look-ups, with their gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genrec_fast.ops._jagged_pack import add_rows, segment_sum
from genrec_fast.ops._registry import core, define, differentiable
from genrec_fast.ops._tensors import FLOATS, allocate, check_offsets, readable
from genrec_fast.ops.reference import jagged_products as twins

__all__ = ["dense_matmul", "embedding", "jagged_matmul"]

_MATMUL, _OUTER = "jagged_dense_matmul", "jagged_jagged_matmul"


def _dense(values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    if values.dtype != torch.float32:  # float64, for gradient checks
        return _dense_slow(values, dense, offsets, bias, transposed)
    check_offsets(_MATMUL, "offsets", offsets, values.shape[0])
    values, dense, offsets = readable(values), readable(dense), readable(offsets)
    bias = None if bias is None else readable(bias)
    out = allocate(_MATMUL, "out", values.shape[0], dense.shape[1 if transposed else 2])
    if out.numel():
        core.jagged_dense_matmul(
            offsets=offsets.data_ptr(),
            num_rows=offsets.shape[0] - 1,
            depth=values.shape[1],
            num_columns=out.shape[1],
            transposed=transposed,
            num_threads=torch.get_num_threads(),
            values=values.data_ptr(),
            dense=dense.data_ptr(),
            bias=0 if bias is None else bias.data_ptr(),
            out=out.data_ptr(),
        )
    return out


def _dense_slow(values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    check_offsets(_MATMUL, "offsets", offsets, values.shape[0])
    return twins.dense_matmul(values, dense, offsets, bias, transposed)


def _dense_fake(values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    return values.new_empty((values.shape[0], dense.shape[1 if transposed else 2]))


def _outer(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    if a.dtype != torch.float32:
        return _outer_slow(a, b, offsets)
    check_offsets(_OUTER, "offsets", offsets, a.shape[0])
    a, b, offsets = readable(a), readable(b), readable(offsets)
    out = allocate(_OUTER, "out", offsets.shape[0] - 1, a.shape[1], b.shape[1])
    if out.numel():
        core.jagged_jagged_matmul(
            offsets=offsets.data_ptr(),
            num_rows=offsets.shape[0] - 1,
            depth=a.shape[1],
            num_columns=b.shape[1],
            num_threads=torch.get_num_threads(),
            a=a.data_ptr(),
            b=b.data_ptr(),
            out=out.data_ptr(),
        )
    return out


def _outer_slow(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    check_offsets(_OUTER, "offsets", offsets, a.shape[0])
    return twins.jagged_matmul(a, b, offsets)


def _outer_fake(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    return a.new_empty((offsets.shape[0] - 1, a.shape[1], b.shape[1]))


dense_matmul = define(
    f"{_MATMUL}(Tensor values, Tensor dense, Tensor offsets, Tensor? bias, bool transposed) -> Tensor",
    cpu=_dense,
    twin=_dense_slow,
    fake=_dense_fake,
)
jagged_matmul = define(
    f"{_OUTER}(Tensor a, Tensor b, Tensor offsets) -> Tensor", cpu=_outer, twin=_outer_slow, fake=_outer_fake
)


def _keep_dense(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    values, dense, offsets, _, ctx.transposed = inputs
    ctx.save_for_backward(values, dense, offsets)


def _dense_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, dense, offsets = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    to_values = dense_matmul(grad, dense, offsets, None, not ctx.transposed) if wanted[0] else None
    to_dense = None
    if wanted[1]:
        to_dense = jagged_matmul(*((grad, values) if ctx.transposed else (values, grad)), offsets)
    return to_values, to_dense, None, segment_sum(grad, offsets, _MATMUL) if wanted[3] else None, None


def _keep_outer(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b, offsets = ctx.saved_tensors
    return dense_matmul(b, grad, offsets, None, True), dense_matmul(a, grad, offsets, None, False), None


differentiable(_MATMUL, _dense_backward, _keep_dense)
differentiable(_OUTER, _outer_backward, _keep_outer)


# ---- rows of a table


def _embedding(table: Tensor, ids: Tensor, sparse_grad: bool) -> Tensor:
    table, ids = readable(table), readable(ids)
    out = allocate("embedding", "out", *ids.shape, *table.shape[1:], dtype=table.dtype)
    core.gather_rows(
        table=table.data_ptr(),
        table_rows=table.shape[0],
        bytes=math.prod(table.shape[1:]) * table.element_size() if out.numel() else 0,
        ids=ids.data_ptr(),
        count=ids.numel(),
        num_threads=torch.get_num_threads(),
        out=out.data_ptr(),
    )
    return out


def _grouped(ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions in the order of their ids, the ids that occur, and where each begins (last: the end)."""
    ids = readable(ids)
    order, unique, starts = (ids.new_empty(ids.numel() + more) for more in (0, 0, 1))
    count = core.group_ids(
        ids=ids.data_ptr(),
        count=ids.numel(),
        table_rows=num_rows,
        order=order.data_ptr(),
        unique=unique.data_ptr(),
        starts=starts.data_ptr(),
    )
    return order, unique[:count], starts[: count + 1]


def _gradient(grad: Tensor, ids: Tensor, num_rows: int) -> Tensor:
    if grad.dtype not in FLOATS:
        return twins.embedding_gradient(grad, ids, num_rows)
    order, unique, starts = _grouped(ids, num_rows)
    out = grad.new_zeros((num_rows, *grad.shape[1:]), dtype=torch.float32)
    add_rows(readable(grad), order, starts, unique, out)
    return out


def _gradient_fake(grad: Tensor, ids: Tensor, num_rows: int) -> Tensor:
    return grad.new_empty((num_rows, *grad.shape[1:]), dtype=torch.promote_types(grad.dtype, torch.float32))


def _gradient_rows(grad: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    if grad.dtype not in FLOATS:
        return twins.embedding_rows(grad, ids)
    order, unique, starts = _grouped(ids, num_rows)
    out = grad.new_empty((len(unique), *grad.shape[1:]), dtype=torch.float32)
    add_rows(readable(grad), order, starts, None, out)
    return unique.clone(), out


def _gradient_rows_fake(grad: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    exact = torch.promote_types(grad.dtype, torch.float32)
    return ids.new_empty(count), grad.new_empty((count, *grad.shape[1:]), dtype=exact)


embedding = define(
    "embedding(Tensor table, Tensor ids, bool sparse_grad) -> Tensor",
    cpu=_embedding,
    twin=lambda table, ids, sparse_grad: twins.embedding(table, ids),
    fake=lambda table, ids, sparse_grad: table.new_empty((*ids.shape, *table.shape[1:])),
)
_gradient_op = define(
    "embedding_gradient(Tensor grad, Tensor ids, SymInt num_rows) -> Tensor",
    cpu=_gradient,
    twin=twins.embedding_gradient,
    fake=_gradient_fake,
)
_gradient_rows_op = define(
    "embedding_rows(Tensor grad, Tensor ids, SymInt num_rows) -> (Tensor, Tensor)",
    cpu=_gradient_rows,
    twin=lambda grad, ids, num_rows: twins.embedding_rows(grad, ids),
    fake=_gradient_rows_fake,
)


def _keep_ids(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    table, ids, ctx.sparse_grad = inputs
    ctx.save_for_backward(ids)
    ctx.num_rows = table.shape[0]


def _embedding_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (ids,) = ctx.saved_tensors
    flat = grad.reshape(ids.numel(), *grad.shape[ids.dim() :])
    if not ctx.sparse_grad:
        return _gradient_op(flat, ids.flatten(), ctx.num_rows).to(grad.dtype), None, None
    rows, sums = _gradient_rows_op(flat, ids.flatten(), ctx.num_rows)
    shape = (ctx.num_rows, *sums.shape[1:])
    # The kernel makes the indices: ascending, all different, inside; torch need not look again.
    found = torch.sparse_coo_tensor(rows[None], sums.to(grad.dtype), shape, is_coalesced=True, check_invariants=False)
    return found, None, None


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.dtype = inputs[0].dtype


differentiable("embedding", _embedding_backward, _keep_ids)
differentiable(
    "embedding_gradient",
    lambda ctx, grad: (embedding(grad, ctx.saved_tensors[0], False).to(ctx.dtype), None, None),
    _keep_gradient,
)

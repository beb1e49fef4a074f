"""Products of jagged rows with matrices, and rows taken out of tables and out of jagged rows.

``values``, ``offsets`` and their rules as in ``jagged_pad``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, check_flag, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda_jagged as cuda
from genrec_fast.ops._checked import checked_ids, checked_offsets
from genrec_fast.ops._registry import core, define, differentiable, twins
from genrec_fast.ops._tensors import FLOATS, allocate, check_offsets, require_offsets
from genrec_fast.ops.reference import jagged_products as reference
from genrec_fast.ops.segment_sum import add_rows, spread, summed_rows

_MATMUL, _OUTER = "jagged_dense_matmul", "jagged_jagged_matmul"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _floats(op: str, dims: dict[str, tuple[int, str]], **tensors: Tensor) -> None:
    """Raises unless all are dense floats of one dtype and device, of so many dimensions."""
    first: Tensor | None = None
    for name, tensor in tensors.items():
        require_tensors(op, None, **{name: tensor})
        number, shape = dims[name]
        if tensor.dtype not in _FLOATS:
            raise InvalidTypeError(f"{op}: {name} must be float32, bfloat16 or float16 {shape}, got {tensor.dtype}")
        if tensor.dim() != number:
            raise InvalidValueError(f"{op}: {name} must be {shape}, got {list(tensor.shape)}")
        first = tensor if first is None else first
        if tensor.dtype != first.dtype:
            raise InvalidTypeError(f"{op}: {name} must be {first.dtype} like the rest, got {tensor.dtype}")
        if tensor.device != first.device:
            raise InvalidValueError(f"{op}: {name} must be on {first.device} like the rest, got {tensor.device}")


def _exact(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@door
def jagged_dense_matmul(values: Tensor, offsets: Tensor, dense: Tensor, bias: Tensor | None = None) -> Tensor:
    """Every row times its own matrix: ``out[e] = values[e] @ dense[r] + bias[r]`` for each element e of row r.

    Args:
        values: float32, bfloat16 or float16 ``[E, D]`` (float64: the plain twin runs, for gradient checks).
        offsets: int64 or int32 ``[B + 1]``, from 0 to E, non-decreasing.
        dense: ``[B, D, M]`` in values' dtype.
        bias: ``[B, M]`` in values' dtype, or ``None``.

    Returns:
        ``[E, M]`` in values' dtype.

    Raises:
        InvalidTypeError: an argument of another kind or dtype.
        InvalidValueError: a wrong shape or device, or offsets that break their rules.

    Notes:
        2 E D M flops on the micro-kernel of ``gemm``, in float32; half-width inputs are copied to float32 first. Equal
        bits for any number of threads. Differentiable, to any order.

    Source:
        A product, no publication; fbgemm's ``jagged_dense_bmm`` and ``jagged_dense_bmm_broadcast_add``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> values, dense = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[[10.0]], [[100.0]]])
        >>> gf.ops.jagged_dense_matmul(values, torch.tensor([0, 1, 3]), dense).flatten().tolist()
        [10.0, 200.0, 300.0]
    """
    op = "jagged_dense_matmul"
    given = {"values": values, "dense": dense} | ({} if bias is None else {"bias": bias})
    _floats(op, {"values": (2, "[E, D]"), "dense": (3, "[B, D, M]"), "bias": (2, "[B, M]")}, **given)
    rows = require_offsets(op, "offsets", offsets, values.device)
    num_rows = rows.shape[0] - 1
    if dense.shape[0] != num_rows or dense.shape[1] != values.shape[1]:
        raise InvalidValueError(f"{op}: dense must be [{num_rows}, {values.shape[1]}, M], got {list(dense.shape)}")
    if bias is not None and bias.shape != (num_rows, dense.shape[2]):
        raise InvalidValueError(f"{op}: bias must be [{num_rows}, {dense.shape[2]}], got {list(bias.shape)}")
    out: Tensor = _dense_op(_exact(values), _exact(dense), rows, None if bias is None else _exact(bias), False)
    return out.to(values.dtype)


@door
def jagged_jagged_matmul(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    """Every row's sum of outer products: ``out[r] = sum over elements e of row r of a[e] b[e]^T``; empty rows give 0.

    Args:
        a: float32, bfloat16 or float16 ``[E, D]`` (float64: the plain twin runs, for gradient checks).
        b: ``[E, M]`` in a's dtype.
        offsets: int64 or int32 ``[B + 1]``, from 0 to E, non-decreasing.

    Returns:
        ``[B, D, M]`` in a's dtype.

    Raises:
        InvalidTypeError: an argument of another kind or dtype.
        InvalidValueError: a wrong shape or device, or offsets that break their rules.

    Notes:
        As ``jagged_dense_matmul``, whose gradient in ``dense`` it is.

    Source:
        A product, no publication; fbgemm's ``jagged_jagged_bmm``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> a = torch.tensor([[1.0], [2.0], [3.0]])
        >>> gf.ops.jagged_jagged_matmul(a, a, torch.tensor([0, 1, 3])).flatten().tolist()
        [1.0, 13.0]
    """
    op = "jagged_jagged_matmul"
    _floats(op, {"a": (2, "[E, D]"), "b": (2, "[E, M]")}, a=a, b=b)
    rows = require_offsets(op, "offsets", offsets, a.device)
    if a.shape[0] != b.shape[0]:
        raise InvalidValueError(f"{op}: b must be [{a.shape[0]}, M] like a, got {list(b.shape)}")
    out: Tensor = _outer_op(_exact(a), _exact(b), rows)
    return out.to(a.dtype)


def _ids(op: str, name: str, ids: Tensor, device: torch.device) -> Tensor:
    require_tensors(op, None, **{name: ids})
    if ids.dtype not in (torch.int32, torch.int64):
        raise InvalidTypeError(f"{op}: {name} must be int64 or int32, got {ids.dtype}")
    if ids.device != device:
        raise InvalidValueError(f"{op}: {name} must be on {device} like the rest, got {ids.device}")
    return ids.long()


@door
def embedding(table: Tensor, ids: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """Rows of a table: ``out[i] = table[ids[i]]``.

    Args:
        table: ``[V, ...]``, any dtype.
        ids: int64 or int32 of any shape, each in [0, V).
        sparse_grad: the table's gradient is a coalesced sparse tensor of the rows that were read (for
            ``torch.optim.SparseAdam`` and SGD; not inside ``torch.compile``) instead of a dense one.

    Returns:
        ``[*ids.shape, ...]`` in table's dtype.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a wrong shape or device, or an id outside [0, V), naming it and its place.

    Notes:
        The gradient sorts the ids (radix) and adds the parts of every row in the order of their places, in float32:
        equal bits on every instruction set and number of threads. Dense: to any order; sparse: once.

    Source:
        A look-up, no publication; torch's ``embedding``, fbgemm's table-batched embedding of one table.

    Example:
        >>> import torch, genrec_fast as gf
        >>> table = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
        >>> gf.ops.embedding(table, torch.tensor([2, 0, 2]), sparse_grad=True).sum().backward()
        >>> table.grad.indices().tolist(), table.grad.values().tolist()
        ([[0, 2]], [[1.0], [2.0]])
    """
    op = "embedding"
    require_tensors(op, None, table=table)
    if table.dim() < 1:
        raise InvalidValueError(f"{op}: table must be [V, ...], got {list(table.shape)}")
    out: Tensor = _embedding_op(table, _ids(op, "ids", ids, table.device), check_flag(op, "sparse_grad", sparse_grad))
    return out


@door
def jagged_gather(values: Tensor, offsets: Tensor, rows: Tensor, *, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Whole rows, in any order and any number of times: row i of the result is row ``rows[i]``.

    Args:
        values: ``[E, ...]``, any dtype.
        offsets: int64 or int32 ``[B + 1]``, from 0 to E, non-decreasing.
        rows: int64 or int32 ``[R]``, each in [0, B).
        total: elements of the result, where the op is compiled into a graph that must not wait for values.

    Returns:
        The values ``[total, ...]`` and their offsets, int64 ``[R + 1]``.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a wrong shape, device, row or total, or offsets that break their rules.

    Notes:
        One index per element, then ``embedding``, whose gradient it has (dense). Differentiable, to any order.

    Source:
        A look-up, no publication; fbgemm's ``jagged_index_select``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> values, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3])
        >>> values, offsets = gf.ops.jagged_gather(values, offsets, torch.tensor([1, 0, 1]))
        >>> values.tolist(), offsets.tolist()
        ([2, 3, 1, 2, 3], [0, 2, 3, 5])
    """
    op = "jagged_gather"
    require_tensors(op, None, values=values)
    if values.dim() < 1:
        raise InvalidValueError(f"{op}: values must be [E, ...], got {list(values.shape)}")
    starts = require_offsets(op, "offsets", offsets, values.device)
    starts = checked_offsets(starts, op, "offsets", values.shape[0])
    picked = _ids(op, "rows", rows, values.device)
    if picked.dim() != 1:
        raise InvalidValueError(f"{op}: rows must be [R], got {list(picked.shape)}")
    if starts.shape[0] == 1 and picked.shape[0]:
        raise InvalidValueError(f"{op}: rows must be in [0, 0), got {picked.shape[0]} of them")
    picked = checked_ids(picked, op, "rows", starts.shape[0] - 1)
    lengths = starts.diff()[picked]
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    size = int(ends[-1]) if total is None else whole_number(op, "total", total, 0, INT64[1])
    shift = spread(starts[:-1][picked] - ends[:-1], ends, size, op)
    place = torch.arange(size, device=values.device) + shift
    if cuda.runs_here(values):  # then the checks wrote -1 where they would have raised
        fine = torch.cat([picked >= 0, starts[:1] == 0, ends[-1:] == size])
        place, ends = cuda.only_where(fine, place), cuda.only_where(fine, ends)
    return _embedding_op(values, place, False), ends


# ---- the ops behind them, with their gradients


def _check_dense(values: Tensor, offsets: Tensor) -> None:
    check_offsets(_MATMUL, "offsets", offsets, values.shape[0])


def _dense(values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    if values.dtype != torch.float32:  # float64, for gradient checks
        product: Tensor = twins[_MATMUL](values, dense, offsets, bias, transposed)
        return product
    _check_dense(values, offsets)
    out = allocate(_MATMUL, "out", values.shape[0], dense.shape[1 if transposed else 2])
    if out.numel():
        core.jagged_dense_matmul(
            offsets=offsets,
            transposed=transposed,
            values=values,
            dense=dense,
            bias=bias,
            out=out,
            num_threads=torch.get_num_threads(),
        )
    return out


def _check_outer(a: Tensor, offsets: Tensor) -> None:
    check_offsets(_OUTER, "offsets", offsets, a.shape[0])


def _outer(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    if a.dtype != torch.float32:
        product: Tensor = twins[_OUTER](a, b, offsets)
        return product
    _check_outer(a, offsets)
    out = allocate(_OUTER, "out", offsets.shape[0] - 1, a.shape[1], b.shape[1])
    if out.numel():
        core.jagged_jagged_matmul(offsets=offsets, a=a, b=b, out=out, num_threads=torch.get_num_threads())
    return out


def _dense_cuda(values: Tensor, dense: Tensor, offsets: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    if values.dtype != torch.float32:
        product: Tensor = twins[_MATMUL](values, dense, offsets, bias, transposed)
        return product
    valid = cuda.valid_offsets(offsets, values.shape[0])
    return cuda.dense_product(values, dense, offsets, bias, transposed, valid)


def _outer_cuda(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    if a.dtype != torch.float32:
        product: Tensor = twins[_OUTER](a, b, offsets)
        return product
    return cuda.outer_product(a, b, offsets, cuda.valid_offsets(offsets, a.shape[0]))


_dense_op = define(
    f"{_MATMUL}(Tensor values, Tensor dense, Tensor offsets, Tensor? bias, bool transposed) -> Tensor",
    kernels={"cpu": _dense, "cuda": _dense_cuda},
    twin=reference.dense_matmul,
    fake=lambda values, dense, transposed: values.new_empty((values.shape[0], dense.shape[1 if transposed else 2])),
    check=_check_dense,
)
_outer_op = define(
    f"{_OUTER}(Tensor a, Tensor b, Tensor offsets) -> Tensor",
    kernels={"cpu": _outer, "cuda": _outer_cuda},
    twin=reference.jagged_matmul,
    fake=lambda a, b, offsets: a.new_empty((offsets.shape[0] - 1, a.shape[1], b.shape[1])),
    check=_check_outer,
)


def _keep_dense(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    values, dense, offsets, _, ctx.transposed = inputs
    ctx.save_for_backward(values, dense, offsets)


def _dense_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, dense, offsets = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    to_values = _dense_op(grad, dense, offsets, None, not ctx.transposed) if wanted[0] else None
    to_dense = None
    if wanted[1]:
        to_dense = _outer_op(*((grad, values) if ctx.transposed else (values, grad)), offsets)
    return to_values, to_dense, None, summed_rows(grad, offsets, _MATMUL) if wanted[3] else None, None


def _keep_outer(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b, offsets = ctx.saved_tensors
    return _dense_op(b, grad, offsets, None, True), _dense_op(a, grad, offsets, None, False), None


differentiable(_MATMUL, _dense_backward, _keep_dense)
differentiable(_OUTER, _outer_backward, _keep_outer)


# ---- rows of a table


def _embedding(table: Tensor, ids: Tensor, sparse_grad: bool) -> Tensor:
    out = allocate("embedding", "out", *ids.shape, *table.shape[1:], dtype=table.dtype)
    core.gather_rows(table=table, ids=ids, out=out, num_threads=torch.get_num_threads())
    return out


def _grouped(ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions in the order of their ids, the ids that occur, and where each begins (last: the end)."""
    order, unique, starts = (ids.new_empty(ids.numel() + more) for more in (0, 0, 1))
    count = core.group_ids(ids=ids, table_rows=num_rows, order=order, unique=unique, starts=starts)
    return order, unique[:count], starts[: count + 1]


def _gradient(grad: Tensor, ids: Tensor, num_rows: int) -> Tensor:
    if grad.dtype not in FLOATS:
        return reference.embedding_gradient(grad, ids, num_rows)
    order, unique, starts = _grouped(ids, num_rows)
    out = grad.new_zeros((num_rows, *grad.shape[1:]), dtype=torch.float32)
    add_rows(grad, order, starts, unique, out)
    return out


def _gradient_rows(grad: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    if grad.dtype not in FLOATS:
        return reference.embedding_rows(grad, ids)
    order, unique, starts = _grouped(ids, num_rows)
    out = grad.new_empty((len(unique), *grad.shape[1:]), dtype=torch.float32)
    add_rows(grad, order, starts, None, out)
    return unique.clone(), out


def _gradient_rows_fake(grad: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    exact = torch.promote_types(grad.dtype, torch.float32)
    return ids.new_empty(count), grad.new_empty((count, *grad.shape[1:]), dtype=exact)


def _embedding_cuda(table: Tensor, ids: Tensor, sparse_grad: bool) -> Tensor:
    return cuda.gather(table, ids)


def _gradient_cuda(grad: Tensor, ids: Tensor, num_rows: int) -> Tensor:
    if grad.dtype not in FLOATS:
        return reference.embedding_gradient(grad, ids, num_rows)
    found, order = ids.sort(stable=True)
    starts = torch.searchsorted(found, torch.arange(num_rows + 1, device=ids.device))
    return cuda.sum_rows(grad, order, starts, torch.ones_like(starts[:1]))


def _gradient_rows_cuda(grad: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Waits for the number of different ids, which its results' shapes have."""
    if grad.dtype not in FLOATS:
        return reference.embedding_rows(grad, ids)
    found, order = ids.sort(stable=True)
    unique, counts = found.unique_consecutive(return_counts=True)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return unique, cuda.sum_rows(grad, order, starts, torch.ones_like(starts[:1]))


_embedding_op = define(
    "embedding(Tensor table, Tensor ids, bool sparse_grad) -> Tensor",
    kernels={"cpu": _embedding, "cuda": _embedding_cuda},
    twin=reference.embedding,
    fake=lambda table, ids: table.new_empty((*ids.shape, *table.shape[1:])),
)
_gradient_op = define(
    "embedding_gradient(Tensor grad, Tensor ids, SymInt num_rows) -> Tensor",
    kernels={"cpu": _gradient, "cuda": _gradient_cuda},
    twin=reference.embedding_gradient,
    fake=lambda grad, num_rows: grad.new_empty(
        (num_rows, *grad.shape[1:]), dtype=torch.promote_types(grad.dtype, torch.float32)
    ),
)
_gradient_rows_op = define(
    "embedding_rows(Tensor grad, Tensor ids, SymInt num_rows) -> (Tensor, Tensor)",
    kernels={"cpu": _gradient_rows, "cuda": _gradient_rows_cuda},
    twin=reference.embedding_rows,
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
    lambda ctx, grad: (_embedding_op(grad, ctx.saved_tensors[0], False).to(ctx.dtype), None, None),
    _keep_gradient,
)

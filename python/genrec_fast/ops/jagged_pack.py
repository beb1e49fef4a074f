"""Jagged rows moved, joined, added up and multiplied: what stands between kernels that work on packed sequences.

Everywhere: ``values`` ``[E, ...]`` hold the elements of all rows end to end; ``offsets``, int64 or int32 ``[B + 1]``,
run from 0 to E without decreasing (checked, always, before anything is read through them); row r is
``values[offsets[r] : offsets[r + 1]]``. Names beside fbgemm's and torchrec's: docs/jagged.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, MOST_BYTES, numbers, require_tensors, sequence, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops._registry import core, define, differentiable, twins
from genrec_fast.ops._tensors import FLOATS, allocate, check_offsets, require_offsets
from genrec_fast.ops.reference import jagged_pack as reference

__all__ = [
    "add_rows",
    "checked_ids",
    "checked_offsets",
    "deinterleave",
    "from_padded",
    "interleave",
    "jagged_concat",
    "jagged_split",
    "segment_mean",
    "segment_sum",
    "spread",
    "summed_rows",
    "to_padded",
]

_SUMMED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _values(op: str, name: str, values: Any, dims: int, shape: str, device: torch.device | None = None) -> Tensor:
    require_tensors(op, None, **{name: values})
    checked: Tensor = values
    if checked.dim() < dims:
        raise InvalidValueError(f"{op}: {name} must be {shape}, got {list(checked.shape)}")
    if not torch.compiler.is_compiling() and math.prod(checked.shape[1:]) > MOST_BYTES:
        raise InvalidValueError(f"{op}: {name} must have rows that can be addressed, got {list(checked.shape)}")
    if device is not None and checked.device != device:
        raise InvalidValueError(f"{op}: {name} must be on {device} like the rest, got {checked.device}")
    return checked


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
    values = _values(op, "values", values, 1, "[E, ...]")
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
    dense = _values(op, "dense", dense, 2, "[B, N, ...]")
    rows = require_offsets(op, "offsets", offsets, dense.device)
    if dense.shape[0] != rows.shape[0] - 1:
        raise InvalidValueError(f"{op}: dense must be [{rows.shape[0] - 1}, N, ...], got {list(dense.shape)}")
    size = max(int(rows[-1]), 0) if total is None else whole_number(op, "total", total, 0, INT64[1])
    out: Tensor = _from_padded_op(dense, rows, size, True)
    return out


def _dense_offsets(num_rows: int, length: int, device: torch.device) -> Tensor:
    return torch.arange(num_rows + 1, device=device) * length


def _num_rows(op: str, found: Sequence[Tensor | None]) -> int:
    sizes = {i: x.shape[0] - 1 for i, x in enumerate(found) if x is not None}
    if not sizes:
        raise InvalidValueError(f"{op}: offsets_list must hold at least one tensor of offsets, got none")
    first = next(iter(sizes.values()))
    for i, size in sizes.items():
        if size != first:
            raise InvalidValueError(f"{op}: offsets_list[{i}] must be [{first + 1}] like the others, got [{size + 1}]")
    return first


@door
def jagged_concat(values_list: Sequence[Tensor], offsets_list: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Row r of the result is row r of every part, one after the other.

    Args:
        values_list: at least one part ``[E_i, ...]`` of one dtype and trailing shape; or, where its offsets are
            ``None``, dense ``[B, n, ...]``: n elements for every row.
        offsets_list: of each part, see above; all of one B.

    Returns:
        The values ``[sum of E_i, ...]`` and their offsets, int64 ``[B + 1]``.

    Raises:
        InvalidTypeError: an argument of another kind, parts of different dtypes.
        InvalidValueError: wrong shapes or devices, or offsets that break their rules.

    Notes:
        One pass. Differentiable in the values, to any order.

    Source: a layout, no publication; fbgemm's and HSTU's ``concat_2D_jagged``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> past, asked = torch.tensor([1, 2, 3]), torch.tensor([[7], [8]])
        >>> values, offsets = gf.ops.jagged_concat([past, asked], [torch.tensor([0, 1, 3]), None])
        >>> values.tolist(), offsets.tolist()
        ([1, 7, 2, 3, 8], [0, 2, 5])
    """
    op = "jagged_concat"
    parts = sequence(op, "values_list", values_list)
    starts = sequence(op, "offsets_list", offsets_list)
    if not parts or len(parts) != len(starts):
        raise InvalidValueError(
            f"{op}: offsets_list must hold one entry for each of at least one part, got {len(starts)} for {len(parts)}"
        )
    device = _values(op, "values_list[0]", parts[0], 1, "[E, ...]").device
    found: list[Tensor | None] = [
        None if x is None else require_offsets(op, f"offsets_list[{i}]", x, device) for i, x in enumerate(starts)
    ]
    num_rows = _num_rows(op, found)
    flat: list[Tensor] = []
    offsets: list[Tensor] = []
    for i, (part, start) in enumerate(zip(parts, found, strict=True)):
        shape = "[B, n, ...]" if start is None else "[E, ...]"
        values = _values(op, f"values_list[{i}]", part, 2 if start is None else 1, shape, device)
        if start is None:
            if values.shape[0] != num_rows:
                raise InvalidValueError(
                    f"{op}: values_list[{i}] must be [{num_rows}, n, ...] without offsets, got {list(values.shape)}"
                )
            start = _dense_offsets(num_rows, values.shape[1], device)
            values = values.reshape(num_rows * values.shape[1], *values.shape[2:])
        if values.dtype != parts[0].dtype:
            raise InvalidTypeError(f"{op}: values_list[{i}] must be {parts[0].dtype} like part 0, got {values.dtype}")
        if flat and values.shape[1:] != flat[0].shape[1:]:
            raise InvalidValueError(
                f"{op}: values_list[{i}] must hold elements {list(flat[0].shape[1:])} like part 0, "
                f"got {list(values.shape[1:])}"
            )
        flat.append(values)
        offsets.append(start)
    return _join_op(flat, offsets), torch.stack(offsets).sum(0)


@door
def jagged_split(
    values: Tensor, offsets_list: Sequence[Tensor | int], *, totals: Sequence[int] | None = None
) -> list[Tensor]:
    """The parts of which ``jagged_concat`` made ``values``.

    Args:
        values: ``[sum of E_i, ...]``, any dtype.
        offsets_list: of every part, as given to ``jagged_concat``; for a dense part its n, an int.
        totals: E_i of every part, where the op is compiled into a graph that must not wait for values.

    Returns:
        Every part: ``[E_i, ...]``, or ``[B, n, ...]``.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: wrong shapes or devices, or offsets that break their rules.

    Notes:
        One pass. Differentiable, to any order.

    Source:
        As ``jagged_concat``; fbgemm's and HSTU's ``split_2D_jagged``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> past, asked = gf.ops.jagged_split(torch.tensor([1, 7, 2, 3, 8]), [torch.tensor([0, 1, 3]), 1])
        >>> past.tolist(), asked.tolist()
        ([1, 2, 3], [[7], [8]])
    """
    op = "jagged_split"
    values = _values(op, "values", values, 1, "[E, ...]")
    given = sequence(op, "offsets_list", offsets_list, "tensors and ints")
    totals = None if totals is None else numbers(op, "totals", totals, 0)
    if not given or (totals is not None and len(totals) != len(given)):
        count = "none" if totals is None else f"{len(given)} for {len(totals)} totals"
        raise InvalidValueError(f"{op}: offsets_list must hold one entry for each of at least one part, got {count}")
    found: list[Tensor | None] = [
        None if isinstance(x, int) else require_offsets(op, f"offsets_list[{i}]", x, values.device)
        for i, x in enumerate(given)
    ]
    num_rows = _num_rows(op, found)
    offsets, sizes, lengths = [], [], []
    for i, (start, one) in enumerate(zip(found, given, strict=True)):
        length = whole_number(op, f"offsets_list[{i}]", one, 0, INT64[1]) if start is None else None
        offsets.append(start if start is not None else _dense_offsets(num_rows, length or 0, values.device))
        if start is None:
            sizes.append(num_rows * (length or 0))
        else:
            sizes.append(max(int(start[-1]), 0) if totals is None else totals[i])
        lengths.append(length)
    parts = _part_op(values, offsets, sizes)
    return [
        part if length is None else part.reshape(num_rows, length, *part.shape[1:])
        for part, length in zip(parts, lengths, strict=True)
    ]


@door
def interleave(values_list: Sequence[Tensor], offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Element i of every part in turn: item, action, item, action, ...

    Args:
        values_list: n parts, at least one, ``[E, ...]`` of one shape and dtype (any).
        offsets: of every part, see above.

    Returns:
        The values ``[n E, ...]`` and their offsets, int64 ``[B + 1]``.

    Raises:
        InvalidTypeError: an argument of another kind, parts of different dtypes.
        InvalidValueError: wrong shapes or devices, or offsets that break their rules.

    Notes:
        One pass. Differentiable in the values, to any order.

    Source:
        HSTU (arXiv:2402.17152, section 2.2): a user as one sequence of items and actions.

    Example:
        >>> import torch, genrec_fast as gf
        >>> items, actions = torch.tensor([1, 2, 3]), torch.tensor([10, 20, 30])
        >>> values, offsets = gf.ops.interleave([items, actions], torch.tensor([0, 1, 3]))
        >>> values.tolist(), offsets.tolist()
        ([1, 10, 2, 20, 3, 30], [0, 2, 6])
    """
    op = "interleave"
    parts = sequence(op, "values_list", values_list)
    if not parts:
        raise InvalidValueError(f"{op}: values_list must hold at least one part, got none")
    first = _values(op, "values_list[0]", parts[0], 1, "[E, ...]")
    for i, part in enumerate(parts):
        _values(op, f"values_list[{i}]", part, 1, "[E, ...]", first.device)
        if part.dtype != first.dtype:
            raise InvalidTypeError(f"{op}: values_list[{i}] must be {first.dtype} like part 0, got {part.dtype}")
        if part.shape != first.shape:
            raise InvalidValueError(
                f"{op}: values_list[{i}] must be {list(first.shape)} like part 0, got {list(part.shape)}"
            )
    rows = checked_offsets(require_offsets(op, "offsets", offsets, first.device), op, "offsets", first.shape[0])
    return torch.stack(parts, 1).reshape(len(parts) * first.shape[0], *first.shape[1:]), rows * len(parts)


@door
def deinterleave(values: Tensor, num_parts: int) -> list[Tensor]:
    """The parts that ``interleave`` joined: views of ``values``, which stay jagged by the old offsets.

    Args:
        values: ``[n E, ...]``, any dtype.
        num_parts: n, at least 1.

    Returns:
        n tensors ``[E, ...]``.

    Raises:
        InvalidValueError: a number of elements that n does not divide.

    Notes:
        Copies nothing. Differentiable.

    Source:
        As ``interleave``.

    Example:
        >>> import torch, genrec_fast as gf
        >>> [part.tolist() for part in gf.ops.deinterleave(torch.tensor([1, 10, 2, 20]), 2)]
        [[1, 2], [10, 20]]
    """
    op = "deinterleave"
    values = _values(op, "values", values, 1, "[n E, ...]")
    count = whole_number(op, "num_parts", num_parts, 1, max(values.shape[0], 1 << 16))
    if values.shape[0] % count:
        raise InvalidValueError(f"{op}: num_parts must divide {values.shape[0]} elements, got {count}")
    return list(values.reshape(values.shape[0] // count, count, *values.shape[1:]).unbind(1))


def _summed(op: str, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    values = _values(op, "values", values, 1, "[E, ...]")
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


# ---- the ops behind them: each the other's gradient


def _check_to(values: Tensor, offsets: Tensor) -> None:
    check_offsets("to_padded", "offsets", offsets, values.shape[0])


def _to_padded(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    _check_to(values, offsets)
    out = allocate("to_padded", "out", offsets.shape[0] - 1, max_len, *values.shape[1:], dtype=values.dtype)
    if out.numel():
        whole = not (values.dtype.is_floating_point or values.dtype.is_complex)
        item = torch.tensor(int(padding) if whole else padding, dtype=values.dtype)
        core.jagged_pad(offsets=offsets, values=values, padding=item, padded=out, num_threads=torch.get_num_threads())
    return out


_to_padded_op = define(
    "to_padded(Tensor values, Tensor offsets, SymInt max_len, Scalar padding) -> Tensor",
    kernels={"cpu": _to_padded},
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


_from_padded_op = define(
    "from_padded(Tensor dense, Tensor offsets, SymInt total, bool fit) -> Tensor",
    kernels={"cpu": _from_padded},
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


summed_rows = define(
    "segment_sum(Tensor values, Tensor offsets, str op) -> Tensor",
    kernels={"cpu": _segment_sum},
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


spread = define(
    "jagged_spread(Tensor rows, Tensor offsets, SymInt total, str op) -> Tensor",
    kernels={"cpu": _spread},
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


def _check_parts(op: str, offsets: Sequence[Tensor], totals: Sequence[int]) -> None:
    for i, (one, total) in enumerate(zip(offsets, totals, strict=True)):
        check_offsets(op, f"offsets_list[{i}]", one, total)


def _joined(offsets: Sequence[Tensor], parts: Sequence[Tensor], joined: Tensor, back: bool) -> None:
    if not joined.numel():
        return
    core.jagged_join(
        offsets=offsets,
        back=back,
        parts=parts,
        joined=joined,
        num_threads=torch.get_num_threads(),
    )


def _check_join(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> None:
    _check_parts("jagged_concat", offsets, [x.shape[0] for x in values])


def _empty_joined(values: Sequence[Tensor]) -> Tensor:
    return values[0].new_empty((sum(x.shape[0] for x in values), *values[0].shape[1:]))


def _join(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    _check_join(values, offsets)
    out = _empty_joined(values)
    _joined(offsets, values, out, back=False)
    return out


_join_op = define(
    "jagged_concat(Tensor[] values, Tensor[] offsets) -> Tensor",
    kernels={"cpu": _join},
    twin=reference.join,
    fake=_empty_joined,
    check=_check_join,
)


def _check_split(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> None:
    _check_parts("jagged_split", offsets, totals)
    if sum(totals) != joined.shape[0]:
        raise InvalidValueError(
            f"jagged_split: values must hold all {sum(totals)} elements of the parts, got {joined.shape[0]}"
        )


def _empty_parts(joined: Tensor, totals: Sequence[int]) -> list[Tensor]:
    return [joined.new_empty((total, *joined.shape[1:])) for total in totals]


def _part(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> list[Tensor]:
    _check_split(joined, offsets, totals)
    parts = _empty_parts(joined, totals)
    _joined(offsets, parts, joined, back=True)
    return parts


_part_op = define(
    "jagged_split(Tensor joined, Tensor[] offsets, SymInt[] totals) -> Tensor[]",
    kernels={"cpu": _part},
    twin=reference.part,
    fake=_empty_parts,
    check=_check_split,
)


def _keep_join(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1])
    ctx.totals = [x.shape[0] for x in inputs[0]]


def _join_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    offsets = list(ctx.saved_tensors)
    return _part_op(grad, offsets, ctx.totals), [None] * len(offsets)


def _part_backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    offsets = list(ctx.saved_tensors)
    return _join_op(list(grads), offsets), [None] * len(offsets), None


differentiable("jagged_concat", _join_backward, _keep_join)
differentiable("jagged_split", _part_backward, lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1]))


# ---- checks as ops, where nothing else looks at the values


def _checked_offsets(offsets: Tensor, op: str, name: str, total: int) -> Tensor:
    check_offsets(op, name, offsets, total)
    return offsets.clone()


def _checked_ids(ids: Tensor, op: str, name: str, size: int) -> Tensor:
    if ids.numel():
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= size:
            raise InvalidValueError(f"{op}: {name} must be in [0, {size}), got {low if low < 0 else high}")
    return ids.clone()


checked_offsets = define(
    "checked_offsets(Tensor offsets, str op, str name, SymInt total) -> Tensor",
    kernels={"cpu": _checked_offsets},
    twin=_checked_offsets,
    fake=lambda offsets: offsets.new_empty(offsets.shape),
)
checked_ids = define(
    "checked_ids(Tensor ids, str op, str name, SymInt size) -> Tensor",
    kernels={"cpu": _checked_ids},
    twin=_checked_ids,
    fake=lambda ids: ids.new_empty(ids.shape),
)

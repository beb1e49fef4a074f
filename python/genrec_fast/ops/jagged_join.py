"""Jagged rows joined and taken apart: part after part in every row, or element by element in turn.

``values``, ``offsets`` and their rules as in ``jagged_pad``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, numbers, sequence, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda_jagged as cuda
from genrec_fast.ops._checked import checked_offsets
from genrec_fast.ops._registry import core, define, differentiable
from genrec_fast.ops._tensors import check_offsets, require_offsets, require_values
from genrec_fast.ops.reference import jagged_join as reference


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
    device = require_values(op, "values_list[0]", parts[0], 1, "[E, ...]").device
    found: list[Tensor | None] = [
        None if x is None else require_offsets(op, f"offsets_list[{i}]", x, device) for i, x in enumerate(starts)
    ]
    num_rows = _num_rows(op, found)
    flat: list[Tensor] = []
    offsets: list[Tensor] = []
    for i, (part, start) in enumerate(zip(parts, found, strict=True)):
        shape = "[B, n, ...]" if start is None else "[E, ...]"
        values = require_values(op, f"values_list[{i}]", part, 2 if start is None else 1, shape, device)
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
    values = require_values(op, "values", values, 1, "[E, ...]")
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
    first = require_values(op, "values_list[0]", parts[0], 1, "[E, ...]")
    for i, part in enumerate(parts):
        require_values(op, f"values_list[{i}]", part, 1, "[E, ...]", first.device)
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
    values = require_values(op, "values", values, 1, "[n E, ...]")
    count = whole_number(op, "num_parts", num_parts, 1, max(values.shape[0], 1 << 16))
    if values.shape[0] % count:
        raise InvalidValueError(f"{op}: num_parts must divide {values.shape[0]} elements, got {count}")
    return list(values.reshape(values.shape[0] // count, count, *values.shape[1:]).unbind(1))


# ---- the ops behind them: each the other's gradient


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


def _starts(offsets: Sequence[Tensor]) -> list[Tensor]:
    """Where each part's rows begin in the joined values."""
    every = torch.stack([one.contiguous() for one in offsets])
    lengths = every.diff(dim=1)
    return list((every.sum(0)[:-1] + lengths.cumsum(0) - lengths).unbind(0))


def _valid(offsets: Sequence[Tensor], totals: Sequence[int]) -> Tensor:
    found = [cuda.valid_offsets(one, total) for one, total in zip(offsets, totals, strict=True)]
    return torch.cat(found).amin(0, keepdim=True)  # one wrong part, and nothing is known of the others' places


def _join_cuda(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    out = _empty_joined(values)
    valid = _valid(offsets, [x.shape[0] for x in values])
    for part, one, starts in zip(values, offsets, _starts(offsets), strict=True):
        cuda.move(one, part.contiguous(), out, starts=starts, back=False, valid=valid)
    return out


_join_op = define(
    "jagged_concat(Tensor[] values, Tensor[] offsets) -> Tensor",
    kernels={"cpu": _join, "cuda": _join_cuda},
    twin=reference.join,
    fake=_empty_joined,
    check=_check_join,
)


def _check_split(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> None:
    _check_parts("jagged_split", offsets, totals)
    _check_total(joined, totals)


def _check_total(joined: Tensor, totals: Sequence[int]) -> None:
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


def _part_cuda(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> list[Tensor]:
    _check_total(joined, totals)
    joined, parts = joined.contiguous(), _empty_parts(joined, totals)
    valid = _valid(offsets, totals)
    for part, one, starts in zip(parts, offsets, _starts(offsets), strict=True):
        cuda.move(one, part, joined, starts=starts, back=True, valid=valid)
    return parts


_part_op = define(
    "jagged_split(Tensor joined, Tensor[] offsets, SymInt[] totals) -> Tensor[]",
    kernels={"cpu": _part, "cuda": _part_cuda},
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

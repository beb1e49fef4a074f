"""The torch ops behind ``jagged_pack``: values checked, kernel or twin called, each the other's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError
from genrec_fast.ops._registry import core, define, differentiable
from genrec_fast.ops._tensors import FLOATS, allocate, check_offsets, readable
from genrec_fast.ops.reference import jagged_pack as twins

__all__ = [
    "add_rows",
    "checked_ids",
    "checked_offsets",
    "from_padded",
    "join",
    "part",
    "segment_sum",
    "spread",
    "to_padded",
]


def _bytes(tensor: Tensor, elements: int) -> int:
    """Of what stands behind the first ``elements`` dimensions."""
    return math.prod(tensor.shape[elements:]) * tensor.element_size()


def _rows(offsets: Tensor, size: int) -> dict[str, int]:
    return {
        "offsets": offsets.data_ptr(),
        "num_rows": offsets.shape[0] - 1,
        "bytes": size,
        "num_threads": torch.get_num_threads(),
    }


def _fits(offsets: Tensor, max_len: int) -> None:
    if offsets.shape[0] > 1:
        lengths = offsets.diff()
        if int(lengths.max()) > max_len:
            row = int((lengths > max_len).nonzero()[0])
            raise InvalidValueError(
                f"from_padded: offsets must give no row more than dense's {max_len}, "
                f"got {int(lengths[row])} in row {row}"
            )


# ---- to and from padded


def _to_padded(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    check_offsets("to_padded", "offsets", offsets, values.shape[0])
    values, offsets = readable(values), readable(offsets)
    out = allocate("to_padded", "out", offsets.shape[0] - 1, max_len, *values.shape[1:], dtype=values.dtype)
    if out.numel():
        whole = not (values.dtype.is_floating_point or values.dtype.is_complex)
        item = torch.tensor(int(padding) if whole else padding, dtype=values.dtype)
        core.jagged_pad(
            **_rows(offsets, _bytes(values, 1)),
            values=values.data_ptr(),
            max_len=max_len,
            padding=item.data_ptr(),
            item_size=item.element_size(),
            padded=out.data_ptr(),
        )
    return out


def _to_padded_slow(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    check_offsets("to_padded", "offsets", offsets, values.shape[0])
    return twins.to_padded(values, offsets, max_len, padding)


def _to_padded_fake(values: Tensor, offsets: Tensor, max_len: int, padding: float) -> Tensor:
    return values.new_empty((offsets.shape[0] - 1, max_len, *values.shape[1:]))


to_padded = define(
    "to_padded(Tensor values, Tensor offsets, SymInt max_len, Scalar padding) -> Tensor",
    cpu=_to_padded,
    twin=_to_padded_slow,
    fake=_to_padded_fake,
)


def _check_from(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> None:
    check_offsets("from_padded", "offsets", offsets, total)
    if fit:
        _fits(offsets, dense.shape[1])


def _from_padded(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> Tensor:
    _check_from(dense, offsets, total, fit)
    dense, offsets = readable(dense), readable(offsets)
    out = allocate("from_padded", "out", total, *dense.shape[2:], dtype=dense.dtype)
    if out.numel():
        core.jagged_unpad(
            **_rows(offsets, _bytes(dense, 2)),
            padded=dense.data_ptr(),
            max_len=dense.shape[1],
            values=out.data_ptr(),
        )
    return out


def _from_padded_slow(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> Tensor:
    _check_from(dense, offsets, total, fit)
    return twins.from_padded(dense, offsets, total)


def _from_padded_fake(dense: Tensor, offsets: Tensor, total: int, fit: bool) -> Tensor:
    return dense.new_empty((total, *dense.shape[2:]))


from_padded = define(
    "from_padded(Tensor dense, Tensor offsets, SymInt total, bool fit) -> Tensor",
    cpu=_from_padded,
    twin=_from_padded_slow,
    fake=_from_padded_fake,
)


def _keep_padded(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.size = inputs[0].shape[0] if len(inputs[0].shape) else 0


def _keep_dense(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.size = inputs[0].shape[1]


differentiable(
    "to_padded",
    lambda ctx, grad: (from_padded(grad, ctx.saved_tensors[0], ctx.size, False), None, None, None),
    _keep_padded,
)
differentiable(
    "from_padded",
    lambda ctx, grad: (to_padded(grad, ctx.saved_tensors[0], ctx.size, 0), None, None, None),
    _keep_dense,
)


# ---- sums, and a row's value for each of its elements


def _segment_sum(values: Tensor, offsets: Tensor, op: str) -> Tensor:
    check_offsets(op, "offsets", offsets, values.shape[0])
    if values.dtype not in FLOATS:  # float64, for gradient checks
        return twins.segment_sum(values, offsets)
    values, offsets = readable(values), readable(offsets)
    out = allocate(op, "out", offsets.shape[0] - 1, *values.shape[1:])
    add_rows(values, None, offsets, None, out)
    return out


def add_rows(values: Tensor, order: Tensor | None, offsets: Tensor, to: Tensor | None, out: Tensor) -> None:
    core.segment_sum(
        values=values.data_ptr(),
        element=FLOATS[values.dtype],
        order=0 if order is None else order.data_ptr(),
        offsets=offsets.data_ptr(),
        num_rows=offsets.shape[0] - 1,
        width=math.prod(values.shape[1:]),
        to=0 if to is None else to.data_ptr(),
        num_threads=torch.get_num_threads(),
        out=out.data_ptr(),
    )


def _segment_sum_slow(values: Tensor, offsets: Tensor, op: str) -> Tensor:
    check_offsets(op, "offsets", offsets, values.shape[0])
    return twins.segment_sum(values, offsets)


def _segment_sum_fake(values: Tensor, offsets: Tensor, op: str) -> Tensor:
    shape = (offsets.shape[0] - 1, *values.shape[1:])
    return values.new_empty(shape, dtype=torch.promote_types(values.dtype, torch.float32))


def _spread(rows: Tensor, offsets: Tensor, total: int, op: str) -> Tensor:
    check_offsets(op, "offsets", offsets, total)
    rows, offsets = readable(rows), readable(offsets)
    out = allocate(op, "out", total, *rows.shape[1:], dtype=rows.dtype)
    if out.numel():
        core.jagged_spread(**_rows(offsets, _bytes(rows, 1)), rows=rows.data_ptr(), values=out.data_ptr())
    return out


def _spread_slow(rows: Tensor, offsets: Tensor, total: int, op: str) -> Tensor:
    check_offsets(op, "offsets", offsets, total)
    return twins.spread(rows, offsets)


def _spread_fake(rows: Tensor, offsets: Tensor, total: int, op: str) -> Tensor:
    return rows.new_empty((total, *rows.shape[1:]))


segment_sum = define(
    "segment_sum(Tensor values, Tensor offsets, str op) -> Tensor",
    cpu=_segment_sum,
    twin=_segment_sum_slow,
    fake=_segment_sum_fake,
)
spread = define(
    "jagged_spread(Tensor rows, Tensor offsets, SymInt total, str op) -> Tensor",
    cpu=_spread,
    twin=_spread_slow,
    fake=_spread_fake,
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
    lambda ctx, grad: (segment_sum(grad, ctx.saved_tensors[0], ctx.op).to(ctx.dtype), None, None, None),
    _keep_rows,
)


# ---- joining rows of several parts, and parting them


def _check_parts(op: str, offsets: Sequence[Tensor], totals: Sequence[int]) -> None:
    for i, (one, total) in enumerate(zip(offsets, totals, strict=True)):
        check_offsets(op, f"offsets_list[{i}]", one, total)


def _joined(offsets: Sequence[Tensor], parts: Sequence[Tensor], joined: Tensor, back: bool) -> None:
    if not joined.numel():
        return
    core.jagged_join(
        offsets=[one.data_ptr() for one in offsets],
        num_rows=offsets[0].shape[0] - 1,
        bytes=_bytes(joined, 1),
        num_threads=torch.get_num_threads(),
        back=back,
        parts=[one.data_ptr() for one in parts],
        joined=joined.data_ptr(),
    )


def _join(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    _check_parts("jagged_concat", offsets, [x.shape[0] for x in values])
    values, offsets = [readable(x) for x in values], [readable(x) for x in offsets]
    out = _join_fake(values, offsets)
    _joined(offsets, values, out, back=False)
    return out


def _join_slow(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    _check_parts("jagged_concat", offsets, [x.shape[0] for x in values])
    return twins.join(values, offsets)


def _join_fake(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor:
    return values[0].new_empty((sum(x.shape[0] for x in values), *values[0].shape[1:]))


def _check_split(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> None:
    _check_parts("jagged_split", offsets, totals)
    if sum(totals) != joined.shape[0]:
        raise InvalidValueError(
            f"jagged_split: values must hold all {sum(totals)} elements of the parts, got {joined.shape[0]}"
        )


def _part(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> list[Tensor]:
    _check_split(joined, offsets, totals)
    joined, offsets = readable(joined), [readable(x) for x in offsets]
    parts = _part_fake(joined, offsets, totals)
    _joined(offsets, parts, joined, back=True)
    return parts


def _part_slow(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> list[Tensor]:
    _check_split(joined, offsets, totals)
    return twins.part(joined, offsets)


def _part_fake(joined: Tensor, offsets: Sequence[Tensor], totals: Sequence[int]) -> list[Tensor]:
    return [joined.new_empty((total, *joined.shape[1:])) for total in totals]


join = define("jagged_concat(Tensor[] values, Tensor[] offsets) -> Tensor", cpu=_join, twin=_join_slow, fake=_join_fake)
part = define(
    "jagged_split(Tensor joined, Tensor[] offsets, SymInt[] totals) -> Tensor[]",
    cpu=_part,
    twin=_part_slow,
    fake=_part_fake,
)


def _keep_join(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1])
    ctx.totals = [x.shape[0] for x in inputs[0]]


def _keep_part(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1])


def _join_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    offsets = list(ctx.saved_tensors)
    return part(grad, offsets, ctx.totals), [None] * len(offsets)


def _part_backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    offsets = list(ctx.saved_tensors)
    return join(list(grads), offsets), [None] * len(offsets), None


differentiable("jagged_concat", _join_backward, _keep_join)
differentiable("jagged_split", _part_backward, _keep_part)


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
    cpu=_checked_offsets,
    twin=_checked_offsets,
    fake=lambda offsets, op, name, total: torch.empty_like(offsets),
)
checked_ids = define(
    "checked_ids(Tensor ids, str op, str name, SymInt size) -> Tensor",
    cpu=_checked_ids,
    twin=_checked_ids,
    fake=lambda ids, op, name, size: torch.empty_like(ids),
)

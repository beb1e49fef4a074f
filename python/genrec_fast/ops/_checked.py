"""Checks of values as ops, where nothing else looks at them: a compiled graph keeps them."""

from __future__ import annotations

from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops import _cuda_jagged as cuda
from genrec_fast.ops._registry import define
from genrec_fast.ops._tensors import check_offsets


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
    kernels={"cpu": _checked_offsets, "cuda": lambda offsets, op, name, total: cuda.checked_offsets(offsets, total)},
    twin=_checked_offsets,
    fake=lambda offsets: offsets.new_empty(offsets.shape),
)
checked_ids = define(
    "checked_ids(Tensor ids, str op, str name, SymInt size) -> Tensor",
    kernels={"cpu": _checked_ids, "cuda": lambda ids, op, name, size: cuda.checked_ids(ids, size)},
    twin=_checked_ids,
    fake=lambda ids: ids.new_empty(ids.shape),
)

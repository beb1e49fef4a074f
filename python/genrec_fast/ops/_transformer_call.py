"""What all calls of a transformer's kernels share: the checks of rows and tables, and the shortest way there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops.transformer_pack import PackedStack, require_stack

TABLES = "Tensor? rotary, Tensor? distance, Tensor? cross, Tensor? cross_offsets, Tensor? first_table, Tensor? tokens"


def check_call(op: str, stack: PackedStack, rows: Tensor, offsets: Tensor | None, **tables: Tensor | None) -> None:
    """Raises for rows, offsets and tables that the kernels of a stack cannot read.

    Raises:
        InvalidTypeError, InvalidValueError: naming the argument.
    """
    require_stack(op, stack)
    if op not in ("transformer_first", "transformer_head"):
        require_tensors(op, None, offsets=offsets)
    given = {name: table for name, table in tables.items() if table is not None}
    required = {"rows": rows} if offsets is None else {"rows": rows, "offsets": offsets}
    require_tensors(op, stack.weights.device, **required, **given)
    for name, tensor in {"rows": rows, **given}.items():
        if name in ("cross_offsets", "tokens"):
            continue
        shape = "[floats]" if name == "cross" else "[E, D]" if name == "rows" else "a matrix"
        if tensor.dtype != torch.float32 or tensor.dim() != (1 if name == "cross" else 2):
            raise InvalidTypeError(f"{op}: {name} must be float32 {shape}, got {tensor.dtype} {list(tensor.shape)}")
    for name, ends in (("offsets", offsets), ("cross_offsets", tables.get("cross_offsets"))):
        if ends is not None and (ends.dtype != torch.int64 or ends.dim() != 1 or ends.numel() == 0):
            raise InvalidTypeError(f"{op}: {name} must be int64 [B + 1], got {ends.dtype} {list(ends.shape)}")
    if offsets is not None and op != "transformer_step" and int(offsets[-1]) != rows.shape[0]:
        raise InvalidValueError(f"{op}: offsets must end at the number of rows {rows.shape[0]}, got {int(offsets[-1])}")
    rotary, distance = tables.get("rotary"), tables.get("distance")
    first, tokens = tables.get("first_table"), tables.get("tokens")
    if (first is None) != (tokens is None):
        raise InvalidValueError(f"{op}: first_table and tokens must be given together, got one of them")
    if first is not None and tokens is not None:
        if first.shape[1] != stack.spec.mixed:
            raise InvalidValueError(f"{op}: first_table must be [V, {stack.spec.mixed}], got {list(first.shape)}")
        if not first.shape[0] and rows.shape[0]:
            raise InvalidValueError(f"{op}: first_table must hold the rows of the tokens, got {list(first.shape)}")
        if tokens.dtype != torch.int64 or tokens.shape != rows.shape[:1]:
            raise InvalidValueError(
                f"{op}: tokens must be int64 [{rows.shape[0]}], got {tokens.dtype} {list(tokens.shape)}"
            )
    if rotary is not None and rotary.shape[1] != stack.spec.rotary_width:
        raise InvalidValueError(f"{op}: rotary must be [P, {stack.spec.rotary_width}], got {list(rotary.shape)}")
    if distance is not None and distance.shape[0] != stack.spec.num_heads:
        raise InvalidValueError(f"{op}: distance must have {stack.spec.num_heads} heads, got {list(distance.shape)}")
    if distance is not None and distance.shape[1] % 2 == 0:
        raise InvalidValueError(f"{op}: distance must be [H, 2M - 1], got {list(distance.shape)}")
    if (tables.get("cross") is None) != (tables.get("cross_offsets") is None):
        raise InvalidValueError(f"{op}: cross and cross_offsets must be given together, got one of them")


def direct(cpu: Callable[..., Any], op: Callable[..., Any]) -> Callable[..., Any]:
    """The way through the dispatcher costs 8 us, ten times a search: plain CPU tensors take the direct one."""

    def call(weights: Tensor, rows: Tensor, *rest: Any) -> Any:
        plain = type(weights) is type(rows) is Tensor and weights.is_cpu and rows.is_cpu and not rows.requires_grad
        return (cpu if plain and not torch.compiler.is_compiling() else op)(weights, rows, *rest)

    return call

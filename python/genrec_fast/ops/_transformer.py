"""How the transformer ops reach their kernels: addresses, sizes and shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate, readable
from genrec_fast.ops.reference.transformer import transformer_cross as _cross_twin
from genrec_fast.ops.reference.transformer import transformer_first as _first_twin
from genrec_fast.ops.reference.transformer import transformer_head as _head_twin
from genrec_fast.ops.reference.transformer import transformer_prefill as _prefill_twin
from genrec_fast.ops.reference.transformer import transformer_step as _step_twin

__all__ = ["addresses_of_tables", "common_arguments", "cross", "direct", "first", "head", "prefill", "step"]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _whole(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else readable(tensor) for tensor in tensors)


def common_arguments(weights: Tensor, stack: int, rows: Tensor) -> dict[str, Any]:
    return {
        "weights": weights.data_ptr(),
        "weights_bytes": weights.numel(),
        "stack": stack,
        "rows_width": rows.shape[1],
        "num_threads": torch.get_num_threads(),
    }


def addresses_of_tables(
    rotary: Tensor | None, distance: Tensor | None, cross: Tensor | None, cross_offsets: Tensor | None, users: int
) -> dict[str, Any]:
    if cross_offsets is not None and cross_offsets.numel() != users + 1:
        raise InvalidValueError(f"transformer: cross_offsets must be [{users + 1}], got {list(cross_offsets.shape)}")
    return {
        "rotary": _address(rotary),
        "num_positions": 0 if rotary is None else rotary.shape[0],
        "rotary_width": 0 if rotary is None else rotary.shape[1],
        "distance": _address(distance),
        "distance_size": 0 if distance is None else distance.shape[1],
        "distance_heads": 0 if distance is None else distance.shape[0],
        "cross": _address(cross),
        "cross_offsets": _address(cross_offsets),
        "cross_floats": 0 if cross is None else cross.numel(),
    }


def _first_layer(table: Tensor | None, tokens: Tensor | None) -> dict[str, Any]:
    return {
        "first_table": _address(table),
        "tokens": _address(tokens),
        "num_tokens": 0 if table is None else table.shape[0],
        "first_width": 0 if table is None else table.shape[1],
    }


def _empty_cache(op: str, common: dict[str, Any], offsets: Tensor, num_rows: int, for_cross: bool) -> Tensor:
    names = ("weights", "weights_bytes", "stack", "rows_width")
    given = {name: common[name] for name in names}
    users = offsets.numel() - 1
    size = core.transformer_cache_size(
        offsets=offsets.data_ptr(), num_users=users, num_rows=num_rows, for_cross=for_cross, **given
    )
    return allocate(op, "cache", size)


def _prefill_cpu(
    weights: Tensor,
    rows: Tensor,
    offsets: Tensor,
    rotary: Tensor | None,
    distance: Tensor | None,
    cross: Tensor | None,
    cross_offsets: Tensor | None,
    first_table: Tensor | None,
    tokens: Tensor | None,
    stack: int,
    num_layers: int,
    only_last: bool,
) -> tuple[Tensor, Tensor]:
    rows, offsets = readable(rows), readable(offsets)
    rotary, distance, cross, cross_offsets = _whole(rotary, distance, cross, cross_offsets)
    first_table, tokens = _whole(first_table, tokens)
    users = offsets.numel() - 1
    common = common_arguments(weights, stack, rows)
    cache = _empty_cache("transformer_prefill", common, offsets, rows.shape[0], False)
    hidden = torch.empty(users if only_last else rows.shape[0], rows.shape[1])
    core.transformer_prefill(
        rows=rows.data_ptr(),
        num_rows=rows.shape[0],
        **_first_layer(first_table, tokens),
        offsets=offsets.data_ptr(),
        num_users=users,
        cache=cache.data_ptr(),
        cache_floats=cache.numel(),
        only_last=only_last,
        hidden=hidden.data_ptr(),
        **addresses_of_tables(rotary, distance, cross, cross_offsets, users),
        **common,
    )
    return hidden, cache


def _first_cpu(weights: Tensor, rows: Tensor, stack: int, mixed_width: int) -> Tensor:
    rows = readable(rows)
    out = allocate("transformer_first", "table", rows.shape[0], mixed_width)
    core.transformer_first(
        rows=rows.data_ptr(),
        num_rows=rows.shape[0],
        table=out.data_ptr(),
        table_width=mixed_width,
        **common_arguments(weights, stack, rows),
    )
    return out


def _cross_cpu(weights: Tensor, rows: Tensor, offsets: Tensor, stack: int) -> Tensor:
    rows, offsets = readable(rows), readable(offsets)
    common = common_arguments(weights, stack, rows)
    cache = _empty_cache("transformer_cross", common, offsets, rows.shape[0], True)
    core.transformer_cross(
        rows=rows.data_ptr(),
        num_rows=rows.shape[0],
        offsets=offsets.data_ptr(),
        num_users=offsets.numel() - 1,
        cache=cache.data_ptr(),
        cache_floats=cache.numel(),
        **common,
    )
    return cache


def _step_cpu(
    weights: Tensor,
    rows: Tensor,
    offsets: Tensor,
    cache: Tensor,
    chain: list[Tensor],
    ancestors: Tensor,
    rotary: Tensor | None,
    distance: Tensor | None,
    cross: Tensor | None,
    cross_offsets: Tensor | None,
    first_table: Tensor | None,
    tokens: Tensor | None,
    stack: int,
    num_layers: int,
    kept: int,
) -> tuple[Tensor, Tensor]:
    rows, offsets = readable(rows), readable(offsets)
    cache, ancestors = readable(cache), readable(ancestors)
    rotary, distance, cross, cross_offsets = _whole(rotary, distance, cross, cross_offsets)
    first_table, tokens = _whole(first_table, tokens)
    parts = [readable(part) for part in chain]
    users = offsets.numel() - 1
    own = allocate("transformer_step", "kept", num_layers, rows.shape[0], kept)
    hidden = torch.empty(rows.shape)
    core.transformer_step(
        rows=rows.data_ptr(),
        num_rows=rows.shape[0],
        **_first_layer(first_table, tokens),
        offsets=offsets.data_ptr(),
        num_users=users,
        num_beams=rows.shape[0] // users,
        cache=cache.data_ptr(),
        cache_floats=cache.numel(),
        chain=[part.data_ptr() for part in parts],
        chain_rows=[part.shape[1] for part in parts],
        chain_floats=[part.numel() for part in parts],
        ancestors=ancestors.data_ptr(),
        kept=own.data_ptr(),
        kept_floats=own.numel(),
        hidden=hidden.data_ptr(),
        **addresses_of_tables(rotary, distance, cross, cross_offsets, users),
        **common_arguments(weights, stack, rows),
    )
    return hidden, own


def _head_cpu(
    weights: Tensor, hidden: Tensor, stack: int, first: int, last: int, log_sums: bool
) -> tuple[Tensor, Tensor]:
    hidden = readable(hidden)
    logits = allocate("transformer_head", "logits", hidden.shape[0], last - first)
    sums = torch.empty(hidden.shape[0] if log_sums else 0)
    core.transformer_head(
        hidden=hidden.data_ptr(),
        num_rows=hidden.shape[0],
        first=first,
        last=last,
        logits=logits.data_ptr(),
        log_sums=sums.data_ptr() if log_sums else 0,
        **common_arguments(weights, stack, hidden),
    )
    return logits, sums


def _some(like: Tensor) -> Tensor:
    return like.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.float32)


def _prefill_fake(*args: Any) -> tuple[Tensor, Tensor]:
    rows, offsets, only_last = args[1], args[2], args[11]
    return rows.new_empty(offsets.shape[0] - 1 if only_last else rows.shape[0], rows.shape[1]), _some(rows)


def _first_fake(weights: Tensor, rows: Tensor, stack: int, mixed_width: int) -> Tensor:
    return rows.new_empty(rows.shape[0], mixed_width)


def _cross_fake(weights: Tensor, rows: Tensor, offsets: Tensor, stack: int) -> Tensor:
    return _some(rows)


def _step_fake(*args: Any) -> tuple[Tensor, Tensor]:
    rows, num_layers, kept = args[1], args[13], args[14]
    return torch.empty_like(rows), rows.new_empty(num_layers, rows.shape[0], kept)


def _head_fake(
    weights: Tensor, hidden: Tensor, stack: int, first: int, last: int, log_sums: bool
) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape[0], last - first), hidden.new_empty(hidden.shape[0] if log_sums else 0)


def direct(cpu: Callable[..., Any], op: Callable[..., Any]) -> Callable[..., Any]:
    """The way through the dispatcher costs 8 us, ten times a search: plain CPU tensors take the direct one."""

    def call(weights: Tensor, rows: Tensor, *rest: Any) -> Any:
        plain = type(weights) is type(rows) is Tensor and weights.is_cpu and rows.is_cpu and not rows.requires_grad
        return (cpu if plain and not torch.compiler.is_compiling() else op)(weights, rows, *rest)

    return call


_TABLES = "Tensor? rotary, Tensor? distance, Tensor? cross, Tensor? cross_offsets, Tensor? first_table, Tensor? tokens"
_prefill_op = define(
    f"transformer_prefill(Tensor weights, Tensor rows, Tensor offsets, {_TABLES}, "
    "int stack, int num_layers, bool only_last) -> (Tensor, Tensor)",
    cpu=_prefill_cpu,
    twin=_prefill_twin,
    fake=_prefill_fake,
)
first = define(
    "transformer_first(Tensor weights, Tensor rows, int stack, int mixed_width) -> Tensor",
    cpu=_first_cpu,
    twin=_first_twin,
    fake=_first_fake,
)
_cross_op = define(
    "transformer_cross(Tensor weights, Tensor rows, Tensor offsets, int stack) -> Tensor",
    cpu=_cross_cpu,
    twin=_cross_twin,
    fake=_cross_fake,
)
_step_op = define(
    "transformer_step(Tensor weights, Tensor rows, Tensor offsets, Tensor cache, Tensor[] chain, Tensor ancestors, "
    f"{_TABLES}, int stack, int num_layers, int kept) -> (Tensor, Tensor)",
    cpu=_step_cpu,
    twin=_step_twin,
    fake=_step_fake,
)
_head_op = define(
    "transformer_head(Tensor weights, Tensor hidden, int stack, int first, int last, bool log_sums) "
    "-> (Tensor, Tensor)",
    cpu=_head_cpu,
    twin=_head_twin,
    fake=_head_fake,
)
prefill, cross = direct(_prefill_cpu, _prefill_op), direct(_cross_cpu, _cross_op)
step, head = direct(_step_cpu, _step_op), direct(_head_cpu, _head_op)

"""Native inference of a transformer: what is read once, prompts and an encoder's rows, and kept of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import check_flag, require_tensors, sequence
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.base.jagged import offsets_of
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate
from genrec_fast.ops._transformer_call import TABLES, check_call, direct
from genrec_fast.ops.reference import transformer as reference
from genrec_fast.ops.transformer_pack import PackedStack


@door
def transformer_prefill(
    stack: PackedStack,
    rows: Tensor,
    offsets: Tensor,
    *,
    rotary: Tensor | None = None,
    distance: Tensor | None = None,
    cross: Tensor | None = None,
    cross_offsets: Tensor | None = None,
    first_table: Tensor | None = None,
    tokens: Tensor | None = None,
    only_last: bool = True,
    past: Sequence[Tensor] = (),
    past_rows: Tensor | None = None,
    past_used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Reads every user's prompt through all layers (``ops.transformer_spec.TransformerSpec`` has the formula).

    With ``past`` the rows of a user are those behind what was read before, which is not read again.

    Args:
        stack: from ``unpack_stacks``.
        rows: float32 ``[E, D]``, the prompts' embeddings end to end, with what positions add to them.
        offsets: int64 ``[B + 1]`` of the prompts, none of them empty.
        rotary: float32 ``[P, rotary_width]``: cosines, then sines, of each position, for stacks that turn by position.
        distance: float32 ``[H, 2M - 1]``: added to the scores, read at ``M - 1 + key - query``; ``None``: nothing.
        cross: from ``transformer_cross``, for stacks with cross-attention.
        cross_offsets: int64 ``[B + 1]`` of the encoder's rows.
        first_table: float32 ``[V, mixed]`` of ``transformer_first`` for the table that the rows are taken from;
            ``None``: the first layer is made here.
        tokens: int64 ``[E]``, which of the table's rows they are; with ``first_table`` alone.
        only_last: of the last layer compute what the last row of each prompt needs.
        past: for each user a cache of that user alone (empty: none, where ``past_used`` is 0); ``()``: nobody has one.
            Tables by position count the rows used of it.
        past_rows: int64 ``[B]``: the rows of each cache; with ``past`` alone.
        past_used: int64 ``[B]``: how many of them, from the first, stand before the new rows.

    Returns:
        hidden float32 ``[B, D]`` (``[E, D]`` without ``only_last``) after the last norm, and the cache: float32
        ``[floats]``, keys and values of every layer as ``transformer_step`` reads them, those used of the past first.

    Raises:
        InvalidTypeError: a dtype is wrong.
        InvalidValueError: offsets, a shape or a table does not fit, or the block does not.
        UnsupportedError: the block was packed for what this instruction set lacks.

    Notes:
        2 flops per weight and row, attention's beside; weights are read once per 96 rows, a past is copied once. One
        fork and join per part of a layer. Deterministic; the same bits for any number of threads, and for rows behind
        a past as for all rows read at once. Not differentiable.

    Source: Vaswani et al. (arXiv:1706.03762); the panels are those of ``gemm``.
    """
    op = "transformer_prefill"
    tables = {"rotary": rotary, "distance": distance, "cross": cross, "first_table": first_table}
    check_call(op, stack, rows, offsets, cross_offsets=cross_offsets, tokens=tokens, **tables)
    tensors = (stack.weights, rows, offsets, rotary, distance, cross, cross_offsets)
    last = check_flag(op, "only_last", only_last)
    known = _past(op, stack, offsets, past, past_rows, past_used)
    hidden, cache = _prefill(*tensors, first_table, tokens, stack.number, stack.spec.num_layers, last, *known)
    return hidden, cache


@door
def transformer_first(stack: PackedStack, rows: Tensor) -> Tensor:
    """What the first layer's norm and product make of rows: queries, keys and values, not yet turned by position.

    Where rows are those of an embedding table, with nothing added by position, they are the same in every call: made
    once for the whole table and looked up by token, they save the first layer its largest product.

    Args:
        stack: from ``unpack_stacks``.
        rows: float32 ``[E, D]``.

    Returns:
        float32 ``[E, mixed]``, mixed = ``(num_heads + 2 num_kv_heads) head_width``: ``first_table`` of the other ops,
        with the bits that they would have made.

    Raises:
        InvalidTypeError, InvalidValueError, UnsupportedError: as ``transformer_prefill``.

    Notes:
        2 D flops per channel of the output and row. Deterministic; the same bits for any number of threads. Not
        differentiable.

    Source: ours; the first layer of a model whose positions enter in its attention alone (T5, rotary).
    """
    check_call("transformer_first", stack, rows, None)
    out: Tensor = _first(stack.weights, rows, stack.number, stack.spec.mixed)
    return out


@door
def transformer_cross(stack: PackedStack, rows: Tensor, offsets: Tensor) -> Tensor:
    """Keys and values of an encoder's rows for every layer of a decoder, once per prompt.

    Args:
        stack: the decoder's.
        rows: float32 ``[E, D]``, the encoder's hidden rows end to end.
        offsets: int64 ``[B + 1]``, no user without a row.

    Returns:
        float32 ``[floats]``, to be given as ``cross``.

    Raises:
        InvalidTypeError, InvalidValueError, UnsupportedError: as ``transformer_prefill``; a stack without
            cross-attention.

    Notes:
        2 flops per weight and row. Deterministic. Not differentiable.

    Source: as ``transformer_prefill``.
    """
    check_call("transformer_cross", stack, rows, offsets)
    out: Tensor = _cross(stack.weights, rows, offsets, stack.number)
    return out


def transformer_select(stack: PackedStack, cache: Tensor, offsets: Tensor, users: Tensor) -> Tensor:
    """The keys and values of some users, out of a cache of ``transformer_prefill`` or ``transformer_cross``.

    Args:
        stack: the cache's.
        cache: float32 ``[floats]``.
        offsets: int64 ``[B + 1]`` of the cache's rows.
        users: int64 ``[m]``, in ``[0, B)``.

    Returns:
        float32 ``[floats]``, a cache of their rows in their order.
    """
    lengths = offsets.diff().tolist()
    cells = {length: _cell(stack, length) for length in set(lengths)}
    ends = [0, *itertools.accumulate(cells[length] for length in lengths)]
    layers = cache.view(stack.spec.num_layers, -1)
    parts = [layers[:, ends[user] : ends[user + 1]] for user in users.tolist()]
    return torch.cat(parts, 1).flatten() if parts else cache[:0]


def _past(
    op: str, stack: PackedStack, offsets: Tensor, past: Sequence[Tensor], rows: Tensor | None, used: Tensor | None
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    caches = list(sequence(op, "past", past))
    if not caches:
        if rows is not None or used is not None:
            raise InvalidValueError(f"{op}: past_rows and past_used must be None without past, got a tensor")
        return [], None, None
    users, device = offsets.numel() - 1, stack.weights.device
    require_tensors(op, device, past_rows=rows, past_used=used, **{f"past[{i}]": c for i, c in enumerate(caches)})
    if len(caches) != users:
        raise InvalidValueError(f"{op}: past must hold a cache for each of {users} users, got {len(caches)}")
    for name, tensor in (("past_rows", rows), ("past_used", used)):
        assert tensor is not None  # seen by require_tensors
        if tensor.dtype != torch.int64 or tensor.shape != (users,):
            raise InvalidValueError(f"{op}: {name} must be int64 [{users}], got {tensor.dtype} {list(tensor.shape)}")
    for index, cache in enumerate(caches):
        if cache.dtype != torch.float32 or cache.dim() != 1:
            raise InvalidTypeError(
                f"{op}: past[{index}] must be float32 [floats], got {cache.dtype} {list(cache.shape)}"
            )
    return caches, rows, used


# ---- the ops behind them


def _cache_floats(
    weights: Tensor, stack: int, shape: Sequence[int], offsets: Tensor, *, for_cross: bool = False
) -> int:
    """Floats of a cache for rows of this shape."""
    size: int = core.transformer_cache_size(
        rows_width=shape[1],
        weights=weights,
        stack=stack,
        num_rows=shape[0],
        offsets=offsets,
        for_cross=for_cross,
    )
    return size


def _cell(stack: PackedStack, length: int) -> int:
    """Floats of one user's keys and values in one layer of a cache, ``length`` rows."""
    offsets = torch.tensor([0, length])
    whole = _cache_floats(stack.weights, stack.number, (length, stack.spec.width), offsets)
    return whole // stack.spec.num_layers


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
    past: Sequence[Tensor] = (),
    past_rows: Tensor | None = None,
    past_used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    prefill, ends, shape, before = core.transformer_prefill, offsets, rows.shape, {}
    if past_used is not None:
        prefill, ends = core.transformer_prefill_past, offsets + offsets_of(past_used)
        shape = torch.Size([int(ends[-1]), rows.shape[1]])
        before = {"past": list(past), "past_rows": past_rows, "past_used": past_used, "cache_offsets": ends}
    cache = allocate("transformer_prefill", "cache", _cache_floats(weights, stack, shape, ends))
    hidden = torch.empty(offsets.numel() - 1 if only_last else rows.shape[0], rows.shape[1])
    prefill(
        rows=rows,
        weights=weights,
        stack=stack,
        offsets=offsets,
        **before,
        cache=cache,
        rotary=rotary,
        distance=distance,
        cross=cross,
        cross_offsets=cross_offsets,
        first_table=first_table,
        tokens=tokens,
        only_last=only_last,
        hidden=hidden,
        num_threads=torch.get_num_threads(),
    )
    return hidden, cache


def _first_cpu(weights: Tensor, rows: Tensor, stack: int, mixed_width: int) -> Tensor:
    out = allocate("transformer_first", "table", rows.shape[0], mixed_width)
    core.transformer_first(rows=rows, weights=weights, stack=stack, table=out, num_threads=torch.get_num_threads())
    return out


def _cross_cpu(weights: Tensor, rows: Tensor, offsets: Tensor, stack: int) -> Tensor:
    cache = allocate("transformer_cross", "cache", _cache_floats(weights, stack, rows.shape, offsets, for_cross=True))
    core.transformer_cross(
        rows=rows, weights=weights, stack=stack, offsets=offsets, cache=cache, num_threads=torch.get_num_threads()
    )
    return cache


def _some(rows: Tensor) -> Tensor:
    return rows.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.float32)


_prefill = direct(
    _prefill_cpu,
    define(
        f"transformer_prefill(Tensor weights, Tensor rows, Tensor offsets, {TABLES}, "
        "int stack, int num_layers, bool only_last, Tensor[] past, Tensor? past_rows, Tensor? past_used) "
        "-> (Tensor hidden, Tensor cache)",
        kernels={"cpu": _prefill_cpu},
        twin=reference.transformer_prefill,
        fake=lambda rows, offsets, only_last: (
            rows.new_empty(offsets.shape[0] - 1 if only_last else rows.shape[0], rows.shape[1]),
            _some(rows),
        ),
    ),
)
_first = define(
    "transformer_first(Tensor weights, Tensor rows, int stack, int mixed_width) -> Tensor",
    kernels={"cpu": _first_cpu},
    twin=reference.transformer_first,
    fake=lambda rows, mixed_width: rows.new_empty(rows.shape[0], mixed_width),
)
_cross = direct(
    _cross_cpu,
    define(
        "transformer_cross(Tensor weights, Tensor rows, Tensor offsets, int stack) -> Tensor",
        kernels={"cpu": _cross_cpu},
        twin=reference.transformer_cross,
        fake=_some,
    ),
)

"""Native inference of a transformer: a prompt is read once, beams are rows over its keys and values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, check_flag, require_tensors, sequence, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.base.jagged import offsets_of
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate
from genrec_fast.ops.reference import transformer as reference
from genrec_fast.ops.transformer_pack import PackedStack, require_stack

__all__ = [
    "direct",
    "transformer_cross",
    "transformer_first",
    "transformer_head",
    "transformer_prefill",
    "transformer_select",
    "transformer_step",
]


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
    _check(op, stack, rows, offsets, cross_offsets=cross_offsets, tokens=tokens, **tables)
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
    _check("transformer_first", stack, rows, None)
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
    _check("transformer_cross", stack, rows, offsets)
    out: Tensor = _cross(stack.weights, rows, offsets, stack.number)
    return out


@door
def transformer_step(
    stack: PackedStack,
    rows: Tensor,
    offsets: Tensor,
    cache: Tensor,
    chain: Sequence[Tensor],
    ancestors: Tensor,
    *,
    rotary: Tensor | None = None,
    distance: Tensor | None = None,
    cross: Tensor | None = None,
    cross_offsets: Tensor | None = None,
    first_table: Tensor | None = None,
    tokens: Tensor | None = None,
    parts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Extends every beam by one row: it sees its user's prompt, its ancestors and itself.

    With ``parts`` the rows are those of a tree: at different depths, and ancestors of each other.

    Args:
        stack: as for the prompts.
        rows: float32 ``[B * W, D]``, user by user, the embeddings of the tokens that were chosen.
        offsets: int64 ``[B + 1]`` of the prompts.
        cache: of the prompts.
        chain: what the earlier steps kept, oldest first: t tensors float32 ``[layers, R_j, 2 * kept heads' width]``.
        ancestors: int32 ``[t, B * W]``: the row of each earlier step that a beam descends from.
        rotary: as for the prompts, positions up to the longest prompt + t.
        distance: as for the prompts, rows up to the longest prompt + t + 1.
        cross: as for the prompts.
        cross_offsets: as for the prompts.
        first_table: as for the prompts.
        tokens: of these rows.
        parts: int32 ``[d, B * W]``: the step that made each ancestor, t for an earlier row of this very call, -1 behind
            a row's last; ``ancestors`` is then ``[d, B * W]``, oldest first. ``None``: step after step, d = t.

    Returns:
        hidden float32 ``[B * W, D]`` after the last norm, and what this step keeps: float32
        ``[layers, B * W, 2 * num_kv_heads * head_width]``.

    Raises:
        InvalidTypeError: a dtype is wrong.
        InvalidValueError: a shape, an offset or an ancestor does not fit.
        UnsupportedError: as ``transformer_prefill``.

    Notes:
        2 flops per weight and row; nothing is copied or reordered between steps. A chunk of up to 96 rows passes
        through all layers by itself, so threads meet once (with ``parts`` twice a layer). The same bits for any number
        of threads, and for a row of a tree as for the same row step by step. Not differentiable.

    Source: as ``transformer_prefill``; the shared prompt is ours, after the mechanism of prefix sharing.
    """
    op = "transformer_step"
    tables = {"rotary": rotary, "distance": distance, "cross": cross, "first_table": first_table}
    _check(op, stack, rows, offsets, cross_offsets=cross_offsets, tokens=tokens, **tables)
    chain = sequence(op, "chain", chain)
    require_tensors(
        op, rows.device, cache=cache, ancestors=ancestors, **{f"chain[{i}]": c for i, c in enumerate(chain)}
    )
    if parts is not None:
        require_tensors(op, rows.device, parts=parts)
        if parts.dtype != torch.int32 or parts.dim() != 2 or parts.shape[1] != rows.shape[0]:
            raise InvalidValueError(
                f"{op}: parts must be int32 [d, {rows.shape[0]}], got {parts.dtype} {list(parts.shape)}"
            )
    users, kept = offsets.numel() - 1, stack.spec.kept
    if users == 0 or rows.shape[0] % users:
        raise InvalidValueError(f"{op}: rows must be [{users} * W, D], got {list(rows.shape)}")
    if cache.dtype != torch.float32 or cache.dim() != 1:
        raise InvalidTypeError(f"{op}: cache must be float32 [floats], got {cache.dtype} {list(cache.shape)}")
    depth = len(chain) if parts is None else parts.shape[0]
    if ancestors.dtype != torch.int32 or ancestors.shape != (depth, rows.shape[0]):
        raise InvalidValueError(
            f"{op}: ancestors must be int32 [{depth}, {rows.shape[0]}], got {ancestors.dtype} {list(ancestors.shape)}"
        )
    for index, part in enumerate(chain):
        fits = part.dim() == 3 and part.shape[0] == stack.spec.num_layers and part.shape[2] == kept
        if part.dtype != torch.float32 or not fits:
            raise InvalidValueError(
                f"{op}: chain[{index}] must be float32 [{stack.spec.num_layers}, R, {kept}], "
                f"got {part.dtype} {list(part.shape)}"
            )
    tensors = (stack.weights, rows, offsets, cache, list(chain), ancestors, parts, rotary, distance)
    others = (cross, cross_offsets, first_table, tokens)
    hidden, own = _step(*tensors, *others, stack.number, stack.spec.num_layers, kept)
    return hidden, own


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


@door
def transformer_head(
    stack: PackedStack, hidden: Tensor, first: int, last: int, *, log_sums: bool = True
) -> tuple[Tensor, Tensor]:
    """Logits of tokens ``[first, last)``, and the log-sum-exp over the whole vocabulary.

    Args:
        stack: one with a head.
        hidden: float32 ``[R, D]``.
        first: the first token whose logit is returned.
        last: the token behind the last one.
        log_sums: whether the sums are wanted; else only the panels of those tokens are multiplied.

    Returns:
        logits float32 ``[R, last - first]``, and float32 ``[R]`` (``[0]`` without ``log_sums``).

    Raises:
        InvalidTypeError, InvalidValueError, UnsupportedError: as ``transformer_prefill``; tokens outside the head.

    Notes:
        2 D flops per token of the vocabulary (or of the range) and row; logits beyond the range are never stored.
        Not differentiable.

    Source: as ``transformer_prefill``.
    """
    op = "transformer_head"
    _check(op, stack, hidden, None)
    first, last = whole_number(op, "first", first, *INT64), whole_number(op, "last", last, *INT64)
    if not 0 <= first <= last <= stack.spec.head_size:
        raise InvalidValueError(f"{op}: first and last must lie in [0, {stack.spec.head_size}], got {first} and {last}")
    logits, sums = _head(stack.weights, hidden, stack.number, first, last, check_flag(op, "log_sums", log_sums))
    return logits, sums


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


def _check(op: str, stack: PackedStack, rows: Tensor, offsets: Tensor | None, **tables: Tensor | None) -> None:
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


def _step_cpu(
    weights: Tensor,
    rows: Tensor,
    offsets: Tensor,
    cache: Tensor,
    chain: list[Tensor],
    ancestors: Tensor,
    parts: Tensor | None,
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
    own = allocate("transformer_step", "kept", num_layers, rows.shape[0], kept)
    hidden = torch.empty(rows.shape)
    core.transformer_step(
        rows=rows,
        weights=weights,
        stack=stack,
        offsets=offsets,
        cache=cache,
        chain=chain,
        parts=parts,
        ancestors=ancestors,
        rotary=rotary,
        distance=distance,
        cross=cross,
        cross_offsets=cross_offsets,
        first_table=first_table,
        tokens=tokens,
        kept=own,
        hidden=hidden,
        num_threads=torch.get_num_threads(),
    )
    return hidden, own


def _head_cpu(
    weights: Tensor, hidden: Tensor, stack: int, first: int, last: int, log_sums: bool
) -> tuple[Tensor, Tensor]:
    logits = allocate("transformer_head", "logits", hidden.shape[0], last - first)
    sums = torch.empty(hidden.shape[0] if log_sums else 0)
    core.transformer_head(
        hidden=hidden,
        weights=weights,
        stack=stack,
        first=first,
        last=last,
        logits=logits,
        log_sums=sums if log_sums else None,
        num_threads=torch.get_num_threads(),
    )
    return logits, sums


def _some(rows: Tensor) -> Tensor:
    return rows.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.float32)


def direct(cpu: Callable[..., Any], op: Callable[..., Any]) -> Callable[..., Any]:
    """The way through the dispatcher costs 8 us, ten times a search: plain CPU tensors take the direct one."""

    def call(weights: Tensor, rows: Tensor, *rest: Any) -> Any:
        plain = type(weights) is type(rows) is Tensor and weights.is_cpu and rows.is_cpu and not rows.requires_grad
        return (cpu if plain and not torch.compiler.is_compiling() else op)(weights, rows, *rest)

    return call


_TABLES = "Tensor? rotary, Tensor? distance, Tensor? cross, Tensor? cross_offsets, Tensor? first_table, Tensor? tokens"
_prefill = direct(
    _prefill_cpu,
    define(
        f"transformer_prefill(Tensor weights, Tensor rows, Tensor offsets, {_TABLES}, "
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
_step = direct(
    _step_cpu,
    define(
        "transformer_step(Tensor weights, Tensor rows, Tensor offsets, Tensor cache, Tensor[] chain, Tensor ancestors, "
        f"Tensor? parts, {_TABLES}, int stack, int num_layers, int kept) -> (Tensor hidden, Tensor kept)",
        kernels={"cpu": _step_cpu},
        twin=reference.transformer_step,
        fake=lambda rows, num_layers, kept: (
            torch.empty_like(rows),
            rows.new_empty(num_layers, rows.shape[0], kept),
        ),
    ),
)
_head = direct(
    _head_cpu,
    define(
        "transformer_head(Tensor weights, Tensor hidden, int stack, int first, int last, bool log_sums) "
        "-> (Tensor logits, Tensor log_sums)",
        kernels={"cpu": _head_cpu},
        twin=reference.transformer_head,
        fake=lambda hidden, first, last, log_sums: (
            hidden.new_empty(hidden.shape[0], last - first),
            hidden.new_empty(hidden.shape[0] if log_sums else 0),
        ),
    ),
)

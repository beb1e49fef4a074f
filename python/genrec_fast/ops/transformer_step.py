"""Native inference of a transformer, row by row: beams, and rows of trees, over keys and values that they share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import require_tensors, sequence
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate
from genrec_fast.ops._transformer_call import TABLES, check_call, direct
from genrec_fast.ops.reference import transformer_step as reference
from genrec_fast.ops.transformer_pack import PackedStack


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
    check_call(op, stack, rows, offsets, cross_offsets=cross_offsets, tokens=tokens, **tables)
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


_step = direct(
    _step_cpu,
    define(
        "transformer_step(Tensor weights, Tensor rows, Tensor offsets, Tensor cache, Tensor[] chain, Tensor ancestors, "
        f"Tensor? parts, {TABLES}, int stack, int num_layers, int kept) -> (Tensor hidden, Tensor kept)",
        kernels={"cpu": _step_cpu},
        twin=reference.transformer_step,
        fake=lambda rows, num_layers, kept: (
            torch.empty_like(rows),
            rows.new_empty(num_layers, rows.shape[0], kept),
        ),
    ),
)

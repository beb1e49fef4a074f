"""Attention over rows of unequal length, end to end: no padding, no matrix of scores in memory."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from genrec_fast.checks import (
    FLOAT32,
    INT64,
    check_flag,
    choice,
    real_number,
    require_room,
    require_tensors,
    shown,
    whole_number,
)
from genrec_fast.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops._jagged_attention import attention
from genrec_fast.ops._tensors import require_offsets
from genrec_fast.ops.attention_bias import ALiBi, AttentionBias, BiasTables, RelativeTimeBias, T5Bias

__all__ = ["jagged_attention"]


@door
def jagged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    *,
    kind: Literal["silu", "softmax"],
    causal: bool = True,
    max_seq_len: int | None = None,
    alpha: float | None = None,
    attn_scale: float | Tensor | None = None,
    num_targets: Tensor | None = None,
    target_group_size: int = 1,
    contextual_seq_len: int = 0,
    max_attn_len: int = 0,
    min_full_attn_seq_len: int = 0,
    bias: AttentionBias | None = None,
    dropout_p: float = 0.0,
    seed: int | None = None,
    kv_offsets: Tensor | None = None,
) -> Tensor:
    """Each query attends to the keys of its own row that its mask lets it see.

    ``s = alpha * q[i] k[j] + bias[i, j]``; silu (HSTU): ``out[i] = sum_j seen[i, j] silu(s) / max_seq_len * v[j]``;
    softmax: ``out[i] = sum_j softmax_j(s where seen) * v[j]``; all per head.

    Args:
        q: float32 or bfloat16 ``[E, H, Dqk]`` (float64: the plain twin runs, for gradient checks).
        k: like q, ``[E_kv, H, Dqk]``.
        v: like q, ``[E_kv, H, Dv]``; Dqk and Dv are free, both at least 1.
        offsets: int64 or int32 ``[B + 1]``, from 0, non-decreasing, ending at E.
        kind: "silu" or "softmax".
        causal: a query sees itself and what stands before it; else the whole row.
        max_seq_len: N of silu's ``1 / N``, at least the longest row; ``None``: the longest row. Give it where the
            op is compiled into a graph that must not wait for values.
        alpha: ``None``: ``1 / sqrt(Dqk)``. Research HSTU: 1.
        attn_scale: silu alone, in place of ``1 / max_seq_len``: a number, a scalar tensor, or float ``[E]`` per query.
        num_targets: integers ``[B]``: so many last positions of each row are targets (candidates): they see what is
            before the targets, and themselves.
        target_group_size: targets in groups of so many, counted from the first, see each other (backwards if causal).
        contextual_seq_len: so many first positions are context: they see all that are not targets.
        max_attn_len: a query sees at most so many positions back; 0: all (``sys.maxsize`` too).
        min_full_attn_seq_len: the last so many positions are not bound by ``max_attn_len``.
        bias: ``RelativeTimeBias``, ``T5Bias``, ``ALiBi`` or ``None``; never written out as a matrix.
        dropout_p: share of the weights (after silu or softmax) set to 0, in [0, 1); the others grow by ``1 / (1 - p)``.
        seed: int64, decides which; needed with dropout. Equal seeds drop the same weights, forward and backward, on
            every machine.
        kv_offsets: like offsets, of k and v, for cross-attention or new queries on a longer past: query i of n stands
            at position ``n_kv - n + i`` of its row. ``None``: as offsets.

    Returns:
        ``[E, H, Dv]`` in q's dtype. A query that sees nothing gives 0.

    Raises:
        InvalidTypeError: an argument of another kind or dtype than the above.
        InvalidValueError: a wrong shape, device or range; offsets that do not start at 0, decrease, or do not end at
            the number of rows; a row with more queries than keys under a mask; targets or context longer than a row.

    Notes:
        The masks, precisely: positions have ids; contextual ones share id 0, the others count up from it, targets
        share the last id. A query sees itself and all lower ids (not causal: all other ids) within ``max_attn_len``.
        Cost: ``2 (Dqk + Dv)`` flops per visible pair and head, five products backward; memory grows with the lengths,
        never with their square. Sums are float32. Deterministic for a given number of threads. Differentiable once in
        q, k, v, attn_scale and the bias' tables. NaN and infinity pass on to queries of the same row.

    Source:
        silu: HSTU (arXiv:2402.17152, equations 1-3) and the masks of its production code; softmax: arXiv:1706.03762,
        computed by blocks as in arXiv:2205.14135.

    Example:
        >>> import torch, genrec_fast as gf
        >>> q = torch.ones(3, 1, 1)
        >>> v = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1)
        >>> offsets = torch.tensor([0, 2, 3])
        >>> gf.ops.jagged_attention(q, q, v, offsets, kind="softmax").flatten().tolist()
        [1.0, 2.0, 5.0]
    """
    op = "jagged_attention"
    choice(op, "kind", kind, ("silu", "softmax"))
    causal = check_flag(op, "causal", causal)
    require_tensors(op, None, q=q)
    require_tensors(op, q.device, k=k, v=v)
    if kv_offsets is None:
        kv_offsets = offsets
    cross = kv_offsets is not offsets
    offsets = require_offsets(op, "offsets", offsets, q.device)
    kv_offsets = require_offsets(op, "kv_offsets", kv_offsets, q.device) if cross else offsets
    _check_shapes(op, q, k, v, offsets, kv_offsets)
    # Rows are shorter than 2^31: all limits beyond that are one, and do not overflow where they are added to positions.
    limits = {
        name: min(whole_number(op, name, value, least, 1 << 64), 1 << 31)
        for name, value, least in (
            ("target_group_size", target_group_size, 1),
            ("contextual_seq_len", contextual_seq_len, 0),
            ("max_attn_len", max_attn_len, 0),
            ("min_full_attn_seq_len", min_full_attn_seq_len, 0),
        )
    }
    dropout_p = real_number(op, "dropout_p", dropout_p)
    if not 0.0 <= dropout_p < 1.0:
        raise InvalidValueError(f"{op}: dropout_p must be in [0, 1), got {dropout_p}")
    if dropout_p and seed is None:
        raise InvalidValueError(f"{op}: seed must be given with dropout_p = {dropout_p}, got None")
    if num_targets is not None:
        require_tensors(op, q.device, num_targets=num_targets)
        if num_targets.dtype not in (torch.int32, torch.int64):
            raise InvalidTypeError(f"{op}: num_targets must be int64 or int32 [B], got {num_targets.dtype}")
        if num_targets.shape != (offsets.shape[0] - 1,):
            raise InvalidValueError(
                f"{op}: num_targets must be [{offsets.shape[0] - 1}], one per row, got {list(num_targets.shape)}"
            )
        num_targets = num_targets.long()
    if max_seq_len is not None:
        max_seq_len = whole_number(op, "max_seq_len", max_seq_len, 1, INT64[1])
    if kind == "softmax" and attn_scale is not None:
        raise InvalidValueError(f"{op}: attn_scale must be None with kind='softmax', got {shown(attn_scale)}")
    if attn_scale is not None:
        attn_scale = _checked_scale(op, attn_scale, q)
    tables = BiasTables(None, None, None, None, None)
    if bias is not None:
        if not isinstance(bias, RelativeTimeBias | T5Bias | ALiBi):
            raise InvalidTypeError(f"{op}: bias must be RelativeTimeBias, T5Bias, ALiBi or None, got {shown(bias)}")
        longest = max_seq_len or max(_longest(offsets), _longest(kv_offsets), 1)
        if not isinstance(bias, RelativeTimeBias):  # which brings its own table; the others fill one for rows so long
            require_room(op, "bias", (q.shape[1], 2 * longest), 64)
        tables = bias.tables(q.shape[1], longest, cross=cross)
        for name, table in zip(tables._fields, tables, strict=True):
            if table is not None and table.device != q.device:
                raise InvalidValueError(f"{op}: {name} of the bias must be on {q.device} like q, got {table.device}")
    seed = whole_number(op, "seed", 0 if seed is None else seed, *INT64)
    out, _ = attention(
        q,
        k,
        v,
        offsets,
        kv_offsets,
        num_targets,
        *tables,
        softmax=kind == "softmax",
        causal=causal,
        alpha=1.0 / math.sqrt(q.shape[2]) if alpha is None else real_number(op, "alpha", alpha, FLOAT32),
        max_seq_len=max_seq_len or 0,
        divide=attn_scale is None,
        **limits,
        dropout_p=dropout_p,
        seed=seed,
    )
    return _scaled(out, attn_scale)


def _longest(offsets: Tensor) -> int:
    return int((offsets[1:] - offsets[:-1]).max()) if offsets.numel() > 1 else 0


def _checked_scale(op: str, scale: Any, q: Tensor) -> float | Tensor:
    if not isinstance(scale, Tensor):
        return real_number(op, "attn_scale", scale)
    require_tensors(op, q.device, attn_scale=scale)
    if not scale.is_floating_point():
        raise InvalidTypeError(f"{op}: attn_scale must be float, got {scale.dtype}")
    if scale.dim() and scale.shape != q.shape[:1]:
        raise InvalidValueError(
            f"{op}: attn_scale must be a number or [{q.shape[0]}], one per query, got {list(scale.shape)}"
        )
    return scale


def _scaled(out: Tensor, scale: float | Tensor | None) -> Tensor:
    """A weight's scale is its query's, so it may as well multiply the sum."""
    if scale is None:
        return out
    if isinstance(scale, Tensor) and scale.dim() > 0:
        scale = scale[:, None, None]
    return (out * scale).to(out.dtype)


def _check_shapes(op: str, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, kv_offsets: Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float64):
            raise InvalidTypeError(f"{op}: {name} must be float32 or bfloat16 [E, H, D], got {tensor.dtype}")
        if tensor.dtype != q.dtype:
            raise InvalidTypeError(f"{op}: {name} must be {q.dtype} like q, got {tensor.dtype}")
        if tensor.dim() != 3 or tensor.shape[1] < 1 or tensor.shape[2] < 1:
            raise InvalidValueError(f"{op}: {name} must be [E, H, D] with H and D at least 1, got {list(tensor.shape)}")
    if k.shape[1:] != q.shape[1:]:
        raise InvalidValueError(f"{op}: k must be [E_kv, {q.shape[1]}, {q.shape[2]}] like q, got {list(k.shape)}")
    if v.shape[:2] != k.shape[:2]:
        raise InvalidValueError(f"{op}: v must be [{k.shape[0]}, {k.shape[1]}, Dv] like k, got {list(v.shape)}")
    if kv_offsets.shape != offsets.shape:
        raise InvalidValueError(
            f"{op}: kv_offsets must be [{offsets.shape[0]}] like offsets, got {list(kv_offsets.shape)}"
        )

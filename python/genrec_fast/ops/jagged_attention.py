"""Attention over rows of unequal length, end to end: no padding, no matrix of scores in memory."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops._arguments import require_tensors, whole_number
from genrec_fast.ops._attention_bias import AttentionBias, BiasTables
from genrec_fast.ops._jagged_attention import attention
from genrec_fast.ops._offsets import require_offsets

__all__ = ["jagged_attention"]


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
        max_attn_len: a query sees at most so many positions back; 0: all.
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
    if kind not in ("silu", "softmax"):
        raise InvalidValueError(f"{op}: kind must be 'silu' or 'softmax', got {kind!r}")
    require_tensors(op, None, q=q)
    require_tensors(op, q.device, k=k, v=v)
    if kv_offsets is None:
        kv_offsets = offsets
    cross = kv_offsets is not offsets
    offsets = require_offsets(op, "offsets", offsets, q.device)
    kv_offsets = require_offsets(op, "kv_offsets", kv_offsets, q.device) if cross else offsets
    _check_shapes(op, q, k, v, offsets, kv_offsets)
    limits = {
        name: whole_number(op, name, value)
        for name, value in (
            ("target_group_size", target_group_size),
            ("contextual_seq_len", contextual_seq_len),
            ("max_attn_len", max_attn_len),
            ("min_full_attn_seq_len", min_full_attn_seq_len),
        )
    }
    for name, value in limits.items():
        least = 1 if name == "target_group_size" else 0
        if value < least:
            raise InvalidValueError(f"{op}: {name} must be at least {least}, got {value}")
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
        max_seq_len = whole_number(op, "max_seq_len", max_seq_len)
        if max_seq_len < 1:
            raise InvalidValueError(f"{op}: max_seq_len must be at least 1, got {max_seq_len}")
    if kind == "softmax" and attn_scale is not None:
        raise InvalidValueError(f"{op}: attn_scale must be None with kind='softmax', got {attn_scale!r:.40}")
    tables = BiasTables(None, None, None, None, None)
    if bias is not None:
        longest = max_seq_len or max(_longest(offsets), _longest(kv_offsets), 1)
        tables = bias.tables(q.shape[1], longest, cross=cross)
    seed = whole_number(op, "seed", seed or 0)
    if not -(2**63) <= seed < 2**63:
        raise InvalidValueError(f"{op}: seed must be in [-2^63, 2^63), got {seed}")
    out, _ = attention(
        q,
        k,
        v,
        offsets,
        kv_offsets,
        num_targets,
        *tables,
        softmax=kind == "softmax",
        causal=bool(causal),
        alpha=1.0 / math.sqrt(q.shape[2]) if alpha is None else float(alpha),
        max_seq_len=max_seq_len or 0,
        divide=attn_scale is None,
        **limits,
        dropout_p=float(dropout_p),
        seed=seed,
    )
    return _scaled(op, out, attn_scale)


def _longest(offsets: Tensor) -> int:
    return int((offsets[1:] - offsets[:-1]).max()) if offsets.numel() > 1 else 0


def _scaled(op: str, out: Tensor, scale: float | Tensor | None) -> Tensor:
    """A weight's scale is its query's, so it may as well multiply the sum."""
    if scale is None:
        return out
    if isinstance(scale, Tensor) and scale.dim() > 0:
        if scale.shape != (out.shape[0],):
            raise InvalidValueError(
                f"{op}: attn_scale must be a number or [{out.shape[0]}], one per query, got {list(scale.shape)}"
            )
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

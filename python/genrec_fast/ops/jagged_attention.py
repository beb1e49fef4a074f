"""Attention over rows of unequal length, end to end: no padding, no matrix of scores in memory."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal

import torch
from torch import Tensor

from genrec_fast.base.checks import (
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
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda_jagged_attention as cuda
from genrec_fast.ops._registry import core, define, differentiable, twins
from genrec_fast.ops._tensors import allocate, check_offsets, require_offsets
from genrec_fast.ops.attention_bias import ALiBi, AttentionBias, BiasTables, RelativeTimeBias, T5Bias
from genrec_fast.ops.reference import jagged_attention as reference

_OP = "jagged_attention"


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
    op = _OP
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
        longest = max_seq_len or 1
        if not isinstance(bias, RelativeTimeBias):  # which brings its own table; the others fill one for rows so long
            longest = max_seq_len or max(_longest(offsets), _longest(kv_offsets), 1)
            require_room(op, "bias", (q.shape[1], 2 * longest), 64)
        tables = bias.tables(q.shape[1], longest, cross=cross)
        for name, table in zip(tables._fields, tables, strict=True):
            if table is not None and table.device != q.device:
                raise InvalidValueError(f"{op}: {name} of the bias must be on {q.device} like q, got {table.device}")
    seed = whole_number(op, "seed", 0 if seed is None else seed, *INT64)
    # float64 goes to the twin, which autograd sees through to any order
    out, _ = (twins[_OP] if q.dtype == torch.float64 else _forward_op)(
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


# ---- the op behind it

_SETTINGS = (
    "bool softmax, bool causal, float alpha, int max_seq_len, bool divide, int target_group_size, "
    "int contextual_seq_len, int max_attn_len, int min_full_attn_seq_len, float dropout_p, int seed"
)
_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor offsets, Tensor kv_offsets, Tensor? num_targets, Tensor? distance_bias, "
    "Tensor? time_bias, Tensor? query_times, Tensor? key_times, Tensor? thresholds"
)
_NAMES = tuple(part.split()[-1] for part in f"{_INPUTS}, {_SETTINGS}".split(", "))
_TABLES = (0, 1, 2, 6, 7)  # those with a gradient


def _check(
    q: Tensor,
    k: Tensor,
    offsets: Tensor,
    kv_offsets: Tensor,
    num_targets: Tensor | None,
    distance_bias: Tensor | None,
    time_bias: Tensor | None,
    query_times: Tensor | None,
    key_times: Tensor | None,
    thresholds: Tensor | None,
    causal: bool,
    max_seq_len: int,
    contextual_seq_len: int,
    max_attn_len: int,
) -> None:
    """What only the values can tell, where no kernel looks at them."""
    context = contextual_seq_len
    check_offsets(_OP, "offsets", offsets, q.shape[0])
    check_offsets(_OP, "kv_offsets", kv_offsets, k.shape[0])
    lengths, kv_lengths = offsets.diff(), kv_offsets.diff()
    if not lengths.numel():
        return
    longest = int(kv_lengths.max())
    if max_seq_len and longest > max_seq_len:
        raise InvalidValueError(f"{_OP}: max_seq_len must be at least the longest row, {longest}, got {max_seq_len}")
    if causal or num_targets is not None or context or max_attn_len:
        longer = lengths > kv_lengths
        if bool(longer.any()):
            row = int(longer.nonzero()[0])
            raise InvalidValueError(
                f"{_OP}: offsets must give no row more queries than keys under a mask, "
                f"got {int(lengths[row])} and {int(kv_lengths[row])} in row {row}"
            )
    if num_targets is not None or context:
        targets = torch.zeros_like(kv_lengths) if num_targets is None else num_targets
        wrong = (targets < 0) | ((targets + context > kv_lengths) & (kv_lengths > 0)) | (targets > kv_lengths)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InvalidValueError(
                f"{_OP}: num_targets must be at least 0 and leave room for contextual_seq_len = {context} in a row, "
                f"got {int(targets[row])} for {int(kv_lengths[row])} positions in row {row}"
            )
    if distance_bias is not None:
        room = distance_bias.shape[1] // 2 + 1
        needed = max(longest, int(lengths.max()))
        if needed > room:
            raise InvalidValueError(f"{_OP}: bias must have a table for rows of {needed}, got one for {room}")
    for name, times, total in (("query_timestamps", query_times, q.shape[0]), ("timestamps", key_times, k.shape[0])):
        if times is None:
            continue
        if times.shape != (total,):
            raise InvalidValueError(f"{_OP}: {name} of the bias must be [{total}], got {list(times.shape)}")
        low, high = (int(bound) for bound in times.aminmax()) if total else (0, 0)
        if not -(2**62) < low <= high < 2**62:
            raise InvalidValueError(f"{_OP}: {name} of the bias must be below 2^62, got {low} to {high}")
    if thresholds is None or time_bias is None or not thresholds.numel():
        return
    low, high = (int(bound) for bound in thresholds.aminmax())
    if low < 1 or high > 2**62 or bool((thresholds.diff() < 0).any()):
        raise InvalidValueError(
            f"{_OP}: thresholds of the bias must be above 0, at most 2^62 and not decrease, got {low} to {high}"
        )


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, or a copy in which a row's heads lie side by side (a slice of a wider projection does as it is)."""
    if tensor.data_ptr() % tensor.element_size():
        return tensor.clone(memory_format=torch.contiguous_format)
    heads, width = tensor.shape[1:]
    fits = tensor.stride(2) == 1 or width == 1
    fits = fits and (tensor.stride(1) == width or heads == 1)
    return tensor if fits and tensor.stride(0) >= heads * width else tensor.contiguous()


def _named(args: tuple[Any, ...]) -> dict[str, Any]:
    """The op's arguments by their names."""
    given = dict(zip(_NAMES, args, strict=True))
    for name, rows, of in (("query_timestamps", "query_times", "q"), ("timestamps", "key_times", "k")):
        times, total = given[rows], given[of].shape[0]
        if times is not None and times.shape != (total,):
            raise InvalidValueError(f"{_OP}: {name} of the bias must be [{total}], got {list(times.shape)}")
    return given


def _arguments(args: tuple[Any, ...], dtype: torch.dtype) -> dict[str, Any]:
    """What the kernel reads, by the names of the op."""
    given = _named(args) | {"num_threads": torch.get_num_threads()}
    for name in ("q", "k", "v"):
        given[name] = given[name].to(dtype)
    for name in ("distance_bias", "time_bias"):
        given[name] = None if given[name] is None else given[name].float()
    return given


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    q, k, v, softmax = args[0], args[1], args[2], args[11]
    dtype = q.dtype
    if dtype == torch.bfloat16:
        q, k = _rows(q), _rows(k)
        pairs = all(x.stride(0) % 2 == 0 and x.data_ptr() % 4 == 0 for x in (q, k)) and q.shape[2] % 2 == 0
        if not (pairs and core.active_isa() == "avx512_bf16"):
            # Where the processor does not multiply bfloat16, or its pairs do not lie together, float32 is as fast.
            dtype = torch.float32
    out = allocate(_OP, "out", q.shape[0], q.shape[1], v.shape[2], dtype=dtype)
    sums = torch.empty(q.shape[0] if softmax else 0, q.shape[1])
    core.jagged_attention(**_arguments((q, k, *args[2:]), dtype), out=out, **({"log_sums": sums} if softmax else {}))
    return out.to(args[0].dtype), sums


def _backward_cpu(grad: Tensor, out: Tensor, sums: Tensor, *args: Any) -> list[Tensor]:
    found = [None if args[i] is None else torch.empty(args[i].shape) for i in _TABLES]
    core.jagged_attention_backward(
        **_arguments(args, torch.float32),
        grad=grad.float(),
        out=out.float(),
        **({"log_sums": sums} if args[11] else {}),
        grad_q=found[0],
        grad_k=found[1],
        grad_v=found[2],
        grad_distance=found[3],
        grad_time=found[4],
    )
    return [_empty(args[0]) if g is None else g.to(args[i].dtype) for g, i in zip(found, _TABLES, strict=True)]


def _forward_cuda(*args: Any) -> tuple[Tensor, Tensor]:
    return cuda.forward(_named(args))


def _backward_cuda(grad: Tensor, out: Tensor, sums: Tensor, *args: Any) -> list[Tensor]:
    found = cuda.backward(grad, out, sums, _named(args))
    return [_empty(args[0]) if g is None else g.to(args[i].dtype) for g, i in zip(found, _TABLES, strict=True)]


def _backward_twin(grad: Tensor, out: Tensor, sums: Tensor, **given: Any) -> list[Tensor]:
    """Gradients of q, k, v, distance_bias and time_bias (empty where there is none), by torch's autograd."""
    names = ("q", "k", "v", "distance_bias", "time_bias")
    leaves = {name: given[name].detach().requires_grad_() for name in names if given[name] is not None}
    with torch.enable_grad():
        found, _ = reference.jagged_attention(**{**given, **leaves})
        wanted = torch.autograd.grad(found, list(leaves.values()), grad, materialize_grads=True)
    gradients = dict(zip(leaves, wanted, strict=True))
    return [gradients[name].contiguous() if name in leaves else _empty(given["q"]) for name in names]


def _empty(q: Tensor) -> Tensor:
    return q.new_empty(0)


def _fake(q: Tensor, v: Tensor, softmax: bool) -> tuple[Tensor, Tensor]:
    exact = torch.promote_types(q.dtype, torch.float32)
    rows = q.shape[0] if softmax else 0
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2]), q.new_empty(rows, q.shape[1], dtype=exact)


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, distance_bias: Tensor | None, time_bias: Tensor | None
) -> list[Tensor]:
    given = (q, k, v, distance_bias, time_bias)
    return [_empty(q) if tensor is None else tensor.new_empty(tensor.shape) for tensor in given]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.settings = inputs[:11], inputs[11:]
    ctx.given = [tensor is not None for tensor in tensors]
    ctx.save_for_backward(*output, *(tensor for tensor in tensors if tensor is not None))
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    out, sums, *saved = ctx.saved_tensors
    rest = iter(saved)
    tensors = [next(rest) if given else None for given in ctx.given]
    found: list[Tensor | None] = [None] * (len(tensors) + len(ctx.settings))
    gradients = _backward_op(grad.contiguous(), out, sums, *tensors, *ctx.settings)
    for i, gradient in zip(_TABLES, gradients, strict=True):
        if tensors[i] is not None:
            found[i] = gradient
    return tuple(found)


def _examine(**given: Any) -> None:
    """What float64 is given on a CPU, float32 would have been given: one check for both."""
    if given["q"].is_cpu:
        core.jagged_attention_check(**_arguments(tuple(given.values()), given["q"].dtype))
    else:
        _check(**{name: given[name] for name in inspect.signature(_check).parameters})


_forward_op = define(
    f"jagged_attention({_INPUTS}, {_SETTINGS}) -> (Tensor out, Tensor log_sums)",
    kernels={"cpu": _forward, "cuda": _forward_cuda},
    twin=reference.jagged_attention,
    fake=_fake,
    check=_examine,
)
_backward_op = define(
    f"jagged_attention_backward(Tensor grad, Tensor out, Tensor sums, {_INPUTS}, {_SETTINGS}) -> Tensor[]",
    kernels={"cpu": _backward_cpu, "cuda": _backward_cuda},
    twin=_backward_twin,
    fake=_fake_backward,
)
differentiable("jagged_attention", _backward, _remember)

"""The torch op behind ``jagged_attention``: values checked, kernel or twin called, gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidValueError
from genrec_fast.ops._registry import core, define, differentiable
from genrec_fast.ops._tensors import allocate, check_offsets, readable
from genrec_fast.ops.reference.jagged_attention import jagged_attention as _twin

__all__ = ["attention"]

_OP = "jagged_attention"
_SETTINGS = (
    "bool softmax, bool causal, float alpha, int max_seq_len, bool divide, int target_group_size, "
    "int contextual_seq_len, int max_attn_len, int min_full_attn_seq_len, float dropout_p, int seed"
)
_NAMES = tuple(part.split()[1] for part in _SETTINGS.split(", "))
_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor offsets, Tensor kv_offsets, Tensor? num_targets, Tensor? distance_bias, "
    "Tensor? time_bias, Tensor? query_times, Tensor? key_times, Tensor? thresholds"
)
_DISTANCE, _TIME, _TABLES = 6, 7, (0, 1, 2, 6, 7)


def _check(args: tuple[Any, ...]) -> None:
    """What only the values can tell."""
    q, k, _, offsets, kv_offsets, num_targets, distance, time, query_times, key_times, thresholds = args[:11]
    _, causal, _, max_seq_len, _, _, contextual, max_attn_len, *_ = args[11:]
    check_offsets(_OP, "offsets", offsets, q.shape[0])
    check_offsets(_OP, "kv_offsets", kv_offsets, k.shape[0])
    lengths, kv_lengths = offsets.diff(), kv_offsets.diff()
    if not lengths.numel():
        return
    longest = int(kv_lengths.max())
    if max_seq_len and longest > max_seq_len:
        raise InvalidValueError(f"{_OP}: max_seq_len must be at least the longest row, {longest}, got {max_seq_len}")
    if causal or num_targets is not None or contextual or max_attn_len:
        longer = lengths > kv_lengths
        if bool(longer.any()):
            row = int(longer.nonzero()[0])
            raise InvalidValueError(
                f"{_OP}: offsets must give no row more queries than keys under a mask, "
                f"got {int(lengths[row])} and {int(kv_lengths[row])} in row {row}"
            )
    if num_targets is not None or contextual:
        targets = torch.zeros_like(kv_lengths) if num_targets is None else num_targets
        wrong = (targets < 0) | ((targets + contextual > kv_lengths) & (kv_lengths > 0)) | (targets > kv_lengths)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InvalidValueError(
                f"{_OP}: num_targets must be at least 0 and leave room for contextual_seq_len = {contextual} in a row, "
                f"got {int(targets[row])} for {int(kv_lengths[row])} positions in row {row}"
            )
    if distance is not None:
        room = distance.shape[1] // 2 + 1
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
    if thresholds is None or time is None or not thresholds.numel():
        return
    low, high = (int(bound) for bound in thresholds.aminmax())
    if low < 1 or high > 2**62 or bool((thresholds.diff() < 0).any()):
        raise InvalidValueError(
            f"{_OP}: thresholds of the bias must be above 0, at most 2^62 and not decrease, got {low} to {high}"
        )


def _slow(*args: Any) -> tuple[Tensor, Tensor]:
    if args[0].is_cpu:  # what float64 is given, float32 would have been given: one check for both
        tensors = _prepared(args, args[0].dtype)  # by name: they must outlive the call that reads their addresses
        core.jagged_attention_check(**_arguments(tensors, args[11:]))
    else:
        _check(args)
    return _twin(*args)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, or a copy in which a row's heads lie side by side (a slice of a wider projection does as it is)."""
    if tensor.data_ptr() % tensor.element_size():
        return tensor.clone(memory_format=torch.contiguous_format)
    heads, width = tensor.shape[1:]
    fits = tensor.stride(2) == 1 or width == 1
    fits = fits and (tensor.stride(1) == width or heads == 1)
    return tensor if fits and tensor.stride(0) >= heads * width else tensor.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _table(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else readable(tensor.float())


def _arguments(tensors: tuple[Tensor | None, ...], settings: tuple[Any, ...]) -> dict[str, Any]:
    """What the kernel reads, by the names of its struct; the tensors must stay alive meanwhile."""
    q, k, v, offsets, kv_offsets, num_targets, distance, time, query_times, key_times, thresholds = tensors
    assert q is not None
    assert k is not None
    assert v is not None
    assert offsets is not None
    assert kv_offsets is not None
    softmax, causal, alpha, max_seq_len, divide, group, context, window, full, dropout, seed = settings
    return {
        "q": q.data_ptr(),
        "k": k.data_ptr(),
        "v": v.data_ptr(),
        "element_size": q.element_size(),
        "q_stride": q.stride(0),
        "k_stride": k.stride(0),
        "v_stride": v.stride(0),
        "num_queries": q.shape[0],
        "num_keys": k.shape[0],
        "num_heads": q.shape[1],
        "width": q.shape[2],
        "value_width": v.shape[2],
        "offsets": offsets.data_ptr(),
        "kv_offsets": kv_offsets.data_ptr(),
        "num_rows": offsets.shape[0] - 1,
        "num_targets": _address(num_targets),
        "distance": _address(distance),
        "distance_heads": 0 if distance is None else distance.shape[0],
        "distance_size": 0 if distance is None else distance.shape[1],
        "time": _address(time),
        "time_heads": 0 if time is None else time.shape[0],
        "time_size": 0 if time is None else time.shape[1],
        "query_times": _address(query_times),
        "key_times": _address(key_times),
        "thresholds": _address(thresholds),
        "num_thresholds": 0 if thresholds is None else thresholds.shape[0],
        "softmax": softmax,
        "causal": causal,
        "alpha": alpha,
        "max_seq_len": max_seq_len,
        "divide": divide,
        "target_group_size": group,
        "contextual_seq_len": context,
        "max_attn_len": window,
        "min_full_attn_seq_len": full,
        "dropout": dropout,
        "seed": seed,
        "num_threads": torch.get_num_threads(),
    }


def _prepared(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    q, k, v, offsets, kv_offsets, num_targets, distance, time, *times = args[:11]
    vectors = tuple(_rows(tensor.to(dtype)) for tensor in (q, k, v))
    for name, found, total in (("query_timestamps", times[0], q.shape[0]), ("timestamps", times[1], k.shape[0])):
        if found is not None and found.shape != (total,):
            raise InvalidValueError(f"{_OP}: {name} of the bias must be [{total}], got {list(found.shape)}")
    others = (None if tensor is None else readable(tensor) for tensor in times)
    return (
        *vectors,
        readable(offsets),
        readable(kv_offsets),
        None if num_targets is None else readable(num_targets),
        _table(distance),
        _table(time),
        *others,
    )


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    q, v, softmax = args[0], args[2], args[11]
    tensors = _prepared(args, q.dtype)
    pairs = all(x is not None and x.stride(0) % 2 == 0 and x.data_ptr() % 4 == 0 for x in tensors[:2])
    pairs = pairs and q.shape[2] % 2 == 0
    if q.dtype == torch.bfloat16 and not (pairs and core.active_isa() == "avx512_bf16"):
        # Where the processor does not multiply bfloat16, or its pairs do not lie together, float32 is as fast.
        tensors = _prepared(args, torch.float32)
    dtype = q.dtype if tensors[0] is None else tensors[0].dtype
    out = allocate(_OP, "out", q.shape[0], q.shape[1], v.shape[2], dtype=dtype)
    sums = torch.empty(q.shape[0] if softmax else 0, q.shape[1])
    core.jagged_attention(out=out.data_ptr(), log_sums=sums.data_ptr(), **_arguments(tensors, args[11:]))
    return out.to(q.dtype), sums


def _backward_cpu(grad: Tensor, out: Tensor, sums: Tensor, *args: Any) -> list[Tensor]:
    tensors = _prepared(args, torch.float32)
    grad, out = readable(grad.float()), readable(out.float())
    found = [_empty(args[0]) if tensors[i] is None else torch.empty(args[i].shape) for i in _TABLES]
    core.jagged_attention_backward(
        grad=grad.data_ptr(),
        out=out.data_ptr(),
        log_sums=sums.data_ptr(),
        grad_q=found[0].data_ptr(),
        grad_k=found[1].data_ptr(),
        grad_v=found[2].data_ptr(),
        grad_distance=found[3].data_ptr(),
        grad_time=found[4].data_ptr(),
        **_arguments(tensors, args[11:]),
    )
    return [g if args[i] is None else g.to(args[i].dtype) for g, i in zip(found, _TABLES, strict=True)]


def _backward_twin(grad: Tensor, out: Tensor, sums: Tensor, *args: Any) -> list[Tensor]:
    """Gradients of q, k, v, distance_bias and time_bias (empty where there is none), by torch's autograd."""
    leaves = [None if args[i] is None else args[i].detach().requires_grad_() for i in _TABLES]
    inputs = list(args)
    for i, leaf in zip(_TABLES, leaves, strict=True):
        inputs[i] = leaf
    with torch.enable_grad():
        found, _ = _twin(*inputs)
        wanted = [leaf for leaf in leaves if leaf is not None]
        gradients = iter(torch.autograd.grad(found, wanted, grad, materialize_grads=True))
    return [_empty(args[0]) if leaf is None else next(gradients).contiguous() for leaf in leaves]


def _empty(q: Tensor) -> Tensor:
    return q.new_empty(0)


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    q, v, softmax = args[0], args[2], args[11]
    exact = torch.promote_types(q.dtype, torch.float32)
    rows = q.shape[0] if softmax else 0
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2]), q.new_empty(rows, q.shape[1], dtype=exact)


def _fake_backward(grad: Tensor, out: Tensor, sums: Tensor, *args: Any) -> list[Tensor]:
    return [_empty(args[0]) if args[i] is None else args[i].new_empty(args[i].shape) for i in _TABLES]


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


_forward_op = define(
    f"jagged_attention({_INPUTS}, {_SETTINGS}) -> (Tensor, Tensor)", cpu=_forward, twin=_slow, fake=_fake
)
_backward_op = define(
    f"jagged_attention_backward(Tensor grad, Tensor out, Tensor sums, {_INPUTS}, {_SETTINGS}) -> Tensor[]",
    cpu=_backward_cpu,
    twin=_backward_twin,
    fake=_fake_backward,
)
differentiable("jagged_attention", _backward, _remember)


def attention(*tensors: Tensor | None, **settings: Any) -> tuple[Tensor, Tensor]:
    """The registered op; float64 goes to the twin, which autograd sees through to any order."""
    first = tensors[0]
    assert first is not None
    if first.dtype == torch.float64:
        if set(settings) != set(_NAMES):
            wrong = sorted(set(settings) ^ set(_NAMES))
            raise InvalidValueError(f"{_OP}: settings must be {', '.join(_NAMES)}, got {', '.join(wrong)} wrong")
        return _slow(*tensors, *(settings[name] for name in _NAMES))
    found: tuple[Tensor, Tensor] = _forward_op(*tensors, **settings)
    return found

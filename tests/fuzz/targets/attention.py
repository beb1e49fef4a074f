"""Attention over jagged rows, forward and backward, with every bias and mask."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.ops.reference.beam_attention import beam_attention as _beams
from genrec_fast.ops.reference.jagged_attention import jagged_attention as _twin

from ..case import Case, Rng, target
from ..compare import differs

LIMITS = ("target_group_size", "contextual_seq_len", "max_attn_len", "min_full_attn_seq_len")


def _bias(rng: Rng, heads: int, longest: int, queries: int, keys: int, asked: bool) -> Any:
    kind = rng.choice(("time", "distance", "both", "t5", "alibi"))
    if kind == "t5":
        buckets, most = rng.choice(((4, 8), (4, 128), (32, 128)))
        return ops.T5Bias(rng.normal(buckets, heads), rng.flip(), most)
    if kind == "alibi":
        return ops.ALiBi(ops.ALiBi.slopes_for(heads))
    rows = (heads,) if rng.flip() else ()
    times = rng.whole(0, 10**9, keys)
    query_times = rng.whole(0, 10**9, queries) if asked or rng.flip() else None
    return ops.RelativeTimeBias(
        rng.normal(*rows, 2 * longest + 3) if kind != "time" else None,
        rng.normal(*rows, rng.choice((2, 40))) if kind != "distance" else None,
        times if kind != "distance" else None,
        query_times if kind != "distance" else None,
    )


def _arguments(rng: Rng, dtype: torch.dtype) -> dict[str, Any]:
    heads, width, value_width = rng.choice((1, 2, 3)), rng.choice((1, 4, 8, 16, 19)), rng.choice((1, 4, 8, 16, 21))
    keys = rng.lengths(rng.randint(0, 3), 9)
    cross = rng.flip(0.25)
    lengths = [rng.randint(0, n) for n in keys] if cross else keys
    longest = max(keys, default=1) or 1
    kind = rng.choice(("silu", "softmax"))
    args: dict[str, Any] = {
        "q": rng.normal(sum(lengths), heads, width, dtype=dtype),
        "k": rng.normal(sum(keys), heads, width, dtype=dtype),
        "v": rng.normal(sum(keys), heads, value_width, dtype=dtype),
        "offsets": rng.offsets(lengths),
        "kind": kind,
        "causal": rng.flip(0.7),
    }
    if cross:
        args["kv_offsets"] = rng.offsets(keys)
    optional: dict[str, Any] = {
        "max_seq_len": longest + rng.randint(0, 3),
        "alpha": rng.choice((1.0, 0.3)),
        "target_group_size": rng.randint(1, 3),
        "contextual_seq_len": min(2, min(lengths, default=0)),
        "max_attn_len": rng.randint(0, 9),
        "min_full_attn_seq_len": rng.randint(0, 4),
        "bias": _bias(rng, heads, longest, sum(lengths), sum(keys), cross),
        "num_targets": torch.tensor(
            [rng.randint(0, max(n - 2, 0)) for n in lengths], dtype=rng.choice((torch.int64, torch.int32))
        ),
    }
    args |= {name: value for name, value in optional.items() if rng.flip(0.3)}
    if kind == "silu" and rng.flip(0.2):
        args["attn_scale"] = rng.choice((0.5, torch.rand(sum(lengths), generator=rng.torch), torch.tensor(0.25)))
    if rng.flip(0.2):
        args |= {"dropout_p": rng.choice((0.2, 0.9)), "seed": rng.randint(-(2**63), 2**63 - 1)}
    return args


def _right(keep_graph: bool = False, **given: Any) -> Tensor:
    """The twin in float64."""

    def value(x: Tensor) -> Tensor:
        return x.double() if keep_graph else x.detach().double()

    q, offsets = given["q"], given["offsets"].long()
    kv_offsets = offsets if given.get("kv_offsets") is None else given["kv_offsets"].long()
    cross = given.get("kv_offsets") is not None
    bias, softmax = given.get("bias"), given["kind"] == "softmax"
    longest = max((b - a for a, b in itertools.pairwise([*kv_offsets.tolist()])), default=0)
    size = given.get("max_seq_len")
    tables: Any = (None,) * 5
    if bias is not None:
        tables = [
            None if t is None else t if keep_graph else t.detach()
            for t in bias.tables(q.shape[1], max(size or 0, longest, 1), cross=cross)
        ]
    alpha, scale = given.get("alpha"), given.get("attn_scale")
    scale = scale if scale is None or isinstance(scale, Tensor) else float(scale)
    whole = {name: int(given.get(name, 1 if name == "target_group_size" else 0)) for name in LIMITS}
    out, _ = _twin(
        *(value(given[name]) for name in "qkv"),
        offsets,
        kv_offsets,
        None if given.get("num_targets") is None else given["num_targets"].long(),
        *(t.double() if i < 2 and t is not None else t for i, t in enumerate(tables)),
        softmax=softmax,
        causal=bool(given["causal"]),
        alpha=1.0 / math.sqrt(q.shape[2]) if alpha is None else float(alpha),
        max_seq_len=int(size or 0),
        divide=scale is None,
        **{name: min(value, 1 << 40) for name, value in whole.items()},
        dropout_p=float(given.get("dropout_p", 0.0)),
        seed=int(given.get("seed") or 0),
    )
    if scale is not None:
        factor = scale.detach().double() if isinstance(scale, Tensor) else scale
        out = out * (factor[:, None, None] if isinstance(factor, Tensor) and factor.dim() else factor)
    return out.to(q.dtype)


def _judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
    """Where values are so large that float32 loses them, only rows that hold none of them are judged."""
    unit = {torch.float64: 1e-9, torch.float32: 3e-5, torch.bfloat16: 3e-2}[given["q"].dtype]
    big = 0.0
    for name in "qkv":
        x = given[name].detach()
        big = max(big, float(x.double().abs().nan_to_num(torch.inf, torch.inf).max()) if x.numel() else 0.0)
    for name in ("pos_w", "ts_w", "weight", "slopes"):
        table = getattr(given.get("bias"), name, None)
        if isinstance(table, Tensor) and table.numel():
            big = max(big, float(table.detach().double().abs().nan_to_num(torch.inf, torch.inf).max()))
    scale, alpha = given.get("attn_scale"), given.get("alpha")
    for value in (scale, alpha):
        if isinstance(value, Tensor) and value.numel():
            big = max(big, float(value.detach().double().abs().nan_to_num(torch.inf, torch.inf).max()))
        elif value is not None and not isinstance(value, Tensor):
            big = max(big, abs(float(value)) if float(value) == float(value) else math.inf)
    if big > 60.0:
        return differs(found, right, math.inf)  # shapes and dtype
    factor = max(1.0, float(right.detach().abs().double().nan_to_num(0, 0, 0).max()) if right.numel() else 1.0)
    return differs(found, right, unit * factor * max(1.0, big / 4) ** 2)


@target("jagged_attention", "ALiBi", "RelativeTimeBias", "T5Bias", share=2.0, calls=64)
def jagged_attention(rng: Rng) -> Case:
    dtype = rng.choice((torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float64))
    args = _arguments(rng, dtype)

    def also(**given: Any) -> str | None:
        narrow = {n: v.float() if isinstance(v, Tensor) and v.dtype == torch.float64 else v for n, v in given.items()}
        try:
            ops.jagged_attention(**narrow)
        except (ValueError, TypeError) as error:
            return f"float64 accepts what float32 refuses: {error}"
        return None

    return Case(ops.jagged_attention, args, _right, _judge, also=also if dtype == torch.float64 else None)


@target("jagged_attention.gradient", "jagged_attention", share=0.5)
def gradient(rng: Rng) -> Case:
    """Gradients of q, k, v and the bias' tables, against the twin's in float64."""
    args = _arguments(rng, torch.float32)
    args.pop("attn_scale", None)
    weights = rng.normal(args["q"].shape[0], args["q"].shape[1], args["v"].shape[2])

    def graded(run: Any, double: bool) -> Any:
        def call(**given: Any) -> list[Tensor]:
            given, leaves = dict(given), []
            for name in "qkv":
                leaf = given[name].detach().as_subclass(Tensor).clone()
                leaf = (leaf.double() if double else leaf).requires_grad_()
                given[name] = leaf
                leaves.append(leaf)
            bias = given.get("bias")
            for name in ("pos_w", "ts_w", "weight", "slopes"):
                if isinstance(table := getattr(bias, name, None), Tensor):
                    leaf = (table.detach().double() if double else table.detach().clone()).requires_grad_()
                    bias = dataclasses.replace(bias, **{name: leaf})
                    leaves.append(leaf)
            if bias is not None:
                given["bias"] = bias
            out = run(**given)
            if out.shape != weights.shape:
                raise InvalidTypeError("a gradient of another shape")
            found = torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True)
            return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]

        return call

    def judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
        for index, (ours, theirs) in enumerate(zip(found, right, strict=True)):
            largest = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
            if complaint := differs(ours, theirs.float(), 2e-4 * largest, f"[{index}]"):
                return complaint
        return None

    # Hostile values and layouts are the forward call's to judge: here whole numbers, masks, times and offsets change.
    fixed = frozenset({"q", "k", "v", "bias", "alpha"})
    return Case(graded(ops.jagged_attention, False), args, graded(_tracked, True), judge, fixed=fixed)


def _tracked(**given: Any) -> Tensor:
    return _right(keep_graph=True, **given)


def _tree(rng: Rng, users: int, beams: int) -> Tensor:
    """Parents of the rows of up to four levels, the last of ``beams``."""
    widths = [*(rng.randint(1, 3) for _ in range(rng.randint(0, 3))), beams]
    if beams and rng.flip(0.2):  # no levels: any earlier row
        return torch.stack([rng.whole(-1, max(row, 0), users) for row in range(sum(widths))], 1).int()
    levels, first = [torch.full((users, widths[0]), -1, dtype=torch.int64)], 0
    for before, own in zip(widths, widths[1:], strict=False):
        levels.append(rng.whole(0, before, users, own) + first)
        first += before
    return torch.cat(levels, 1).int()


@target("beam_attention")
def beam_attention(rng: Rng) -> Case:
    dtype = rng.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    users, beams = rng.choice((0, 1, 3)), rng.choice((0, 1, 2, 5))
    key_heads, width, value_width = rng.choice((1, 2)), rng.choice((1, 4, 8, 19)), rng.choice((1, 4, 8, 21))
    heads = key_heads * rng.choice((1, 2))
    which = rng.choice(("prompts", "rows", "both", "both"))
    args: dict[str, Any] = {"q": rng.normal(users, beams, heads, width, dtype=dtype)}
    if which != "rows":
        lengths = [rng.randint(0, 9) for _ in range(users)]
        args["prompt_keys"] = rng.normal(sum(lengths), key_heads, width, dtype=dtype)
        args["prompt_values"] = rng.normal(sum(lengths), key_heads, value_width, dtype=dtype)
        args["offsets"] = rng.offsets(lengths)
    if which != "prompts":
        parents = _tree(rng, users, beams)
        args["keys"] = rng.normal(users, parents.shape[1], key_heads, width, dtype=dtype)
        args["values"] = rng.normal(users, parents.shape[1], key_heads, value_width, dtype=dtype)
        args["parents"] = parents
    if rng.flip(0.4):
        args["bias"] = rng.normal(heads, rng.randint(1, 6))
    if rng.flip(0.4):
        args["scale"] = rng.choice((1.0, 0.3))
    tensors = ("q", "prompt_keys", "prompt_values", "keys", "values", "bias")

    def right(**given: Any) -> Tensor:
        names = ("q", "prompt_keys", "prompt_values", "offsets", "keys", "values", "parents", "bias")
        offsets, rows = given.get("offsets"), given.get("prompt_keys")
        if offsets is not None and rows is not None:
            edges = [0, *offsets.tolist(), len(rows)]
            if edges[1] or edges[-2] != edges[-1] or sorted(edges) != edges:
                raise ValueError("offsets that break their rules")
        parents = given.get("parents")
        if parents is not None and bool(((parents < -1) | (parents >= torch.arange(parents.shape[1]))).any()):
            raise ValueError("a parent that is no earlier row")
        wide = [given.get(name) for name in names]
        wide = [x.double() if x is not None and name in tensors else x for name, x in zip(names, wide, strict=True)]
        scale = given.get("scale")
        factor = 1.0 / math.sqrt(given["q"].shape[3]) if scale is None else float(scale)
        return _beams(*wide, factor).to(given["q"].dtype)

    def judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
        unit = {torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[given["q"].dtype]
        held = [given[name].detach().double().abs() for name in tensors if given.get(name) is not None]
        big = max((float(x.nan_to_num(torch.inf, torch.inf).max()) for x in held if x.numel()), default=0.0)
        big = max(big, abs(float(given.get("scale") or 0.0)))
        if big > 60.0:
            return differs(found, right, math.inf)  # shapes and dtype
        return differs(found, right, unit * max(1.0, big) * max(1.0, big / 4) ** 2)

    return Case(ops.beam_attention, args, right, judge)

"""Jagged rows moved, joined and added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.ops.reference import jagged_join, jagged_pad
from genrec_fast.ops.reference import segment_sum as sums_twin

from ..case import Case, Rng, Unasked, target
from ..compare import differs

ANY = (
    *(
        torch.float32,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int16,
    ),
    *(torch.int8, torch.uint8, torch.bool, torch.complex64),
)
SUMMED = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)


def elements(rng: Rng, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    dtype = dtype or rng.choice(ANY)
    return (
        rng.normal(*shape, dtype=dtype)
        if dtype.is_floating_point or dtype.is_complex
        else rng.whole(0, 2, *shape, dtype=dtype)
    )


SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def moved(twin_of: Any) -> Any:
    """A twin that only moves elements, for dtypes that torch cannot index: their bits are moved."""

    def run(values: Any, *rest: Any) -> Any:
        first = values[0] if isinstance(values, list) else values
        kind = first.dtype
        if kind == torch.float8_e4m3fn:  # every such number is a float32
            wide = [v.float() for v in values] if isinstance(values, list) else values.float()
            found = twin_of(wide, *rest)
            return [f.to(kind) for f in found] if isinstance(found, list) else found.to(kind)
        other = SIGNED.get(kind)
        if other is None:
            return twin_of(values, *rest)
        found = twin_of([v.view(other) for v in values] if isinstance(values, list) else values.view(other), *rest)
        return [f.view(kind) for f in found] if isinstance(found, list) else found.view(kind)

    return run


def trailing(rng: Rng) -> tuple[int, ...]:
    return rng.choice(((), (), (1,), (3,), (8,), (17,), (2, 3), (0,), (33,)))


def _padded(values: Tensor, offsets: Tensor, max_len: int, padding_value: float) -> Any:
    if int(max_len) > 1 << 20:
        raise Unasked
    return moved(jagged_pad.to_padded)(values, offsets.long(), int(max_len), padding_value)


@target("to_padded")
def to_padded(rng: Rng) -> Case:
    lengths, dtype = rng.lengths(rng.randint(0, 4)), rng.choice(ANY)
    args = {
        "values": elements(rng, sum(lengths), *trailing(rng), dtype=dtype),
        "offsets": rng.offsets(lengths),
        "max_len": rng.randint(0, 8),
        "padding_value": rng.choice((0.0, 1.0)),
    }
    return Case(
        ops.to_padded,
        args,
        _padded,
    )


@target("from_padded")
def from_padded(rng: Rng) -> Case:
    lengths = rng.lengths(rng.randint(0, 4))
    longest = max(lengths, default=0) + rng.randint(0, 2)
    args = {
        "dense": elements(rng, len(lengths), longest, *trailing(rng)),
        "offsets": rng.offsets(lengths),
        "total": sum(lengths) if rng.flip() else None,
    }

    def right(dense: Tensor, offsets: Tensor, total: int | None) -> Tensor:
        end = int(offsets[-1])
        if total is not None and int(total) != end:
            raise ValueError(f"total {total} is not {end}")
        return moved(jagged_pad.from_padded)(dense, offsets.long(), end)

    return Case(ops.from_padded, args, right)


def _parts(rng: Rng) -> tuple[list[Tensor], list[Tensor | None], list[Tensor | int]]:
    rows, inner, dtype = rng.randint(0, 4), trailing(rng), rng.choice(ANY)
    values: list[Tensor] = []
    offsets: list[Tensor | None] = []
    given: list[Tensor | int] = []
    for part in range(rng.randint(1, 3)):
        if part and rng.flip(0.3):
            width = rng.randint(0, 3)
            values.append(elements(rng, rows, width, *inner, dtype=dtype))
            offsets.append(None)
            given.append(width)
        else:
            lengths = rng.lengths(rows)
            values.append(elements(rng, sum(lengths), *inner, dtype=dtype))
            offsets.append(rng.offsets(lengths))
            given.append(offsets[-1])  # type: ignore[arg-type]
    return values, offsets, given


def _flat(values_list: Sequence[Tensor], offsets_list: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
    rows = next(len(o) - 1 for o in offsets_list if o is not None)
    flat, offsets = [], []
    for values, start in zip(values_list, offsets_list, strict=True):
        flat.append(values if start is not None else values.reshape(rows * values.shape[1], *values.shape[2:]))
        offsets.append(start.long() if start is not None else torch.arange(rows + 1) * values.shape[1])
    return flat, offsets


def _joined(values_list: Sequence[Tensor], offsets_list: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    flat, offsets = _flat(list(values_list), list(offsets_list))
    return moved(jagged_join.join)(flat, offsets), torch.stack(offsets).sum(0)


@target("jagged_concat")
def jagged_concat(rng: Rng) -> Case:
    values, offsets, _ = _parts(rng)
    return Case(ops.jagged_concat, {"values_list": values, "offsets_list": offsets}, _joined)


@target("jagged_split")
def jagged_split(rng: Rng) -> Case:
    values, offsets, given = _parts(rng)
    joined, _ = _joined(values, offsets)
    sizes = [v.shape[0] if o is not None else v.shape[0] * v.shape[1] for v, o in zip(values, offsets, strict=True)]
    args = {"values": joined, "offsets_list": given, "totals": sizes if rng.flip() else None}

    def right(values: Tensor, offsets_list: Sequence[Any], totals: Any) -> list[Tensor]:
        entries = list(offsets_list)
        rows = next(len(o) - 1 for o in entries if isinstance(o, Tensor))
        starts = [o.long() if isinstance(o, Tensor) else torch.arange(rows + 1) * int(o) for o in entries]
        found = moved(jagged_join.part)(values, starts)
        if totals is not None:
            wrong = [
                (int(t), len(f))
                for t, f, o in zip(totals, found, entries, strict=True)
                if isinstance(o, Tensor) and int(t) != len(f)
            ]
            if wrong:
                raise ValueError(f"totals {wrong}")
        return [
            f if isinstance(o, Tensor) else f.reshape(rows, int(o), *f.shape[1:])
            for f, o in zip(found, entries, strict=True)
        ]

    return Case(ops.jagged_split, args, right)


@target("interleave")
def interleave(rng: Rng) -> Case:
    lengths, dtype, inner = rng.lengths(rng.randint(0, 4)), rng.choice(ANY), trailing(rng)
    parts = [elements(rng, sum(lengths), *inner, dtype=dtype) for _ in range(rng.randint(1, 3))]

    def right(values_list: Sequence[Tensor], offsets: Tensor) -> tuple[Tensor, Tensor]:
        parts = list(values_list)
        rows = offsets.long()
        if int(rows[0]) != 0 or int(rows[-1]) != len(parts[0]) or bool((rows.diff() < 0).any()):
            raise ValueError("offsets")
        return torch.cat([x[i : i + 1] for i in range(len(parts[0])) for x in parts] or [parts[0]]), rows * len(parts)

    return Case(ops.interleave, {"values_list": parts, "offsets": rng.offsets(lengths)}, right)


@target("deinterleave")
def deinterleave(rng: Rng) -> Case:
    parts = rng.randint(1, 4)
    values = elements(rng, parts * rng.randint(0, 6), *trailing(rng))
    return Case(
        ops.deinterleave,
        {"values": values, "num_parts": parts},
        lambda values, num_parts: [values[i :: int(num_parts)] for i in range(int(num_parts))],
    )


def _summed(rng: Rng) -> tuple[dict[str, Any], torch.dtype]:
    lengths, dtype = rng.lengths(rng.randint(0, 4)), rng.choice(SUMMED)
    return {"values": elements(rng, sum(lengths), *trailing(rng), dtype=dtype), "offsets": rng.offsets(lengths)}, dtype


def _too(call: Any, dtype: torch.dtype) -> Any:
    if dtype != torch.float64:
        return None

    def also(values: Any, offsets: Any) -> str | None:
        try:
            call(values.float(), offsets)
        except (ValueError, TypeError) as error:
            return f"float64 accepts what float32 refuses: {error}"
        return None

    return also


@target("segment_sum")
def segment_sum(rng: Rng) -> Case:
    args, dtype = _summed(rng)
    return Case(
        ops.segment_sum,
        args,
        lambda values, offsets: sums_twin.segment_sum(values, offsets.long()).to(values.dtype),
        also=_too(ops.segment_sum, dtype),
    )


@target("segment_mean")
def segment_mean(rng: Rng) -> Case:
    args, dtype = _summed(rng)

    def right(values: Tensor, offsets: Tensor) -> Tensor:
        rows = offsets.long()
        sums = sums_twin.segment_sum(values, rows)
        return (sums / rows.diff().clamp(min=1).view(-1, *(1,) * (sums.dim() - 1))).to(values.dtype)

    return Case(ops.segment_mean, args, right, also=_too(ops.segment_mean, dtype))


@target("embedding")
def embedding(rng: Rng) -> Case:
    rows = rng.randint(1, 7)
    shape = rng.choice(((), (0,), (1,), (5,), (2, 3)))
    args = {
        "table": elements(rng, rows, *trailing(rng)),
        "ids": rng.whole(0, rows, *shape, dtype=rng.choice((torch.int64, torch.int32))),
        "sparse_grad": rng.flip(),
    }

    def right(table: Tensor, ids: Tensor, sparse_grad: bool) -> Tensor:
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= len(table)):
            raise ValueError("an id outside the table")
        return moved(lambda rows: rows[ids.long()])(table)

    return Case(ops.embedding, args, right)


@target("embedding.gradient", "embedding")
def embedding_gradient(rng: Rng) -> Case:
    rows, width = rng.randint(1, 7), rng.choice((1, 3, 8, 17))
    ids = rng.whole(0, rows, rng.randint(0, 9))
    dtype = rng.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    args = {
        "table": rng.normal(rows, width, dtype=dtype),
        "ids": ids,
        "sparse_grad": rng.flip(),
        "gradient": rng.normal(len(ids), width, dtype=dtype),
    }

    def call(table: Tensor, ids: Tensor, sparse_grad: bool, gradient: Tensor) -> Tensor:
        leaf = table.detach().requires_grad_()
        if isinstance(ids, Tensor) and type(ids).__name__ == "Sub":
            ids = ids.as_subclass(Tensor)  # a sparse gradient of a subclass is what torch itself cannot make
        out = ops.embedding(leaf, ids, sparse_grad=sparse_grad)
        if out.shape != gradient.shape:
            raise InvalidTypeError("a gradient of another shape")
        (found,) = torch.autograd.grad(out, leaf, gradient)
        return found.to_dense() if found.is_sparse else found

    def right(table: Tensor, ids: Tensor, sparse_grad: bool, gradient: Tensor) -> Tensor:
        from genrec_fast.ops.reference.jagged_products import embedding_gradient

        return embedding_gradient(gradient.reshape(-1, *table.shape[1:]), ids.reshape(-1).long(), len(table)).to(
            table.dtype
        )

    # What torch says of hostile gradients is not ours: only what the op itself reads is altered.
    return Case(call, args, right, fixed=frozenset({"table", "gradient"}))


@target("jagged_gather")
def jagged_gather(rng: Rng) -> Case:
    lengths = rng.lengths(rng.randint(1, 4))
    rows = [rng.randrange(len(lengths)) for _ in range(rng.randint(0, 5))]
    args = {
        "values": elements(rng, sum(lengths), *trailing(rng)),
        "offsets": rng.offsets(lengths),
        "rows": torch.tensor(rows, dtype=rng.choice((torch.int64, torch.int32))),
        "total": sum(lengths[r] for r in rows) if rng.flip() else None,
    }

    def right(values: Tensor, offsets: Tensor, rows: Tensor, total: int | None) -> tuple[Tensor, Tensor]:
        starts, picked = offsets.tolist(), rows.tolist()
        if any(not 0 <= r < len(starts) - 1 for r in picked):
            raise ValueError("a row outside")
        pieces = [values[starts[r] : starts[r + 1]] for r in picked]
        ends = torch.tensor([0, *(len(p) for p in pieces)]).cumsum(0)
        if total is not None and int(total) != int(ends[-1]):
            raise ValueError("total")
        return torch.cat([values[:0], *pieces]), ends

    return Case(ops.jagged_gather, args, right)


def _graded(name: str, call: Any, twin_of: Any, arguments: Any) -> None:
    """A target: the gradient of an op in its first tensor, against autograd's through the twin in float64."""

    @target(f"{name}.gradient", name, share=0.3)
    def make(rng: Rng) -> Case:
        args = arguments(rng)
        first = next(iter(args))
        shape = call(**args).shape
        weights = rng.normal(*shape)

        def graded(run: Any, double: bool) -> Any:
            def gradient(**given: Any) -> Tensor:
                leaf = (given[first].double() if double else given[first].clone()).requires_grad_()
                out = run(**{**given, first: leaf})
                if out.shape != shape:
                    raise InvalidTypeError("a gradient of another shape")
                (found,) = torch.autograd.grad((out * weights).sum(), leaf, allow_unused=True)
                return torch.zeros_like(leaf) if found is None else found

            return gradient

        def judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
            return differs(found, right.float(), 1e-4 * max(1.0, float(right.abs().max()) if right.numel() else 1.0))

        return Case(graded(call, False), args, graded(twin_of, True), judge, fixed=frozenset({first}))


def _for_gradients(rng: Rng) -> dict[str, Any]:
    lengths = rng.lengths(rng.randint(1, 4))
    return {"values": rng.normal(sum(lengths), rng.choice((1, 3, 8, 17))), "offsets": rng.offsets(lengths)}


_graded(
    "segment_sum",
    ops.segment_sum,
    lambda values, offsets: sums_twin.segment_sum(values, offsets.long()),
    _for_gradients,
)
_graded(
    "to_padded",
    ops.to_padded,
    lambda values, offsets, max_len: _padded(values, offsets, max_len, 0.0),
    lambda rng: {**_for_gradients(rng), "max_len": rng.randint(0, 8)},
)

"""Products of matrices: ``gemm`` and what is built on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.ops.reference import gemm as twin
from genrec_fast.ops.reference import jagged_products as products

from ..case import Case, Rng, target
from ..compare import differs

FLOATS = (torch.float32, torch.float32, torch.bfloat16, torch.float16)
SIZES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65)


def _wide(x: Tensor, precision: str) -> Tensor:
    return x.detach().to(torch.bfloat16 if precision == "bfloat16" else torch.float32).double()


def _product(a: Tensor, b: Tensor, start: Tensor | None, precision: str) -> Tensor:
    if precision == "int8":
        packed = twin.gemm_pack(b.float(), precision)
        return twin.gemm(a, packed, b.shape[0], start, precision)
    out = _wide(a, precision) @ _wide(b, precision).T
    return (out if start is None else out + start.double()).float()


def _rounding(a: Tensor, b: Tensor, start: Tensor | None, precision: str) -> Tensor | float:
    if precision == "int8":
        return 1e-6 * (1 + _product(a, b, None, precision).abs() + (0 if start is None else start.abs()))
    a, b = _wide(a, precision).abs(), _wide(b, precision).abs()
    sums = a @ b.T + (0 if start is None else start.double().abs())
    # What is too small for a normal number may count as 0, in a factor of bfloat16 as in a product.
    flushed = 1.2e-38 * (a.sum(1)[:, None] + b.sum(1) + a.shape[1] + 8)
    return torch.where(sums < 1e37, (a.shape[1] + 4) * 1.2e-7 * sums + flushed, torch.inf)


def _matrices(rng: Rng) -> tuple[Tensor, Tensor, str, Tensor | None]:
    precision = rng.choice(("float32", "float32", "int8", "bfloat16"))
    rows, columns, depth = rng.choice((0, *SIZES)), rng.choice(SIZES), rng.choice(SIZES)
    a, b = rng.normal(rows, depth, dtype=rng.choice(FLOATS)), rng.normal(columns, depth, dtype=rng.choice(FLOATS))
    return a, b, precision, rng.normal(columns) if rng.flip() else None


@target("gemm")
def gemm(rng: Rng) -> Case:
    a, b, precision, start = _matrices(rng)
    try:
        packed = ops.gemm_pack(b, precision=precision)
    except RuntimeError:  # no bfloat16 on this machine
        precision = "float32"
        packed = ops.gemm_pack(b, precision=precision)
    args = {"a": a, "packed": packed, "num_columns": b.shape[0], "start": start, "precision": precision}

    def right(a: Tensor, packed: Any, num_columns: int, start: Any, precision: str) -> Tensor:
        return _product(a, b, start, precision)

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        return differs(found, expected, _rounding(given["a"], b, given["start"], given["precision"]))

    return Case(ops.gemm, args, right, judge, opaque=frozenset({"packed"}))


@target("gemm_pack")
def gemm_pack(rng: Rng) -> Case:
    _, b, precision, _ = _matrices(rng)

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        b, precision = given["b"], given["precision"]
        eye = torch.eye(b.shape[1])
        try:
            product = ops.gemm(eye, found, b.shape[0], precision=precision)
        except RuntimeError as error:
            return f"gemm refuses what gemm_pack made: {error}"
        return differs(product, _product(eye, b, None, precision), _rounding(eye, b, None, precision))

    return Case(
        ops.gemm_pack,
        {"b": b, "precision": precision},
        lambda b, precision: None,
        judge,
        refuses=precision == "bfloat16",
    )


def _kind(rng: Rng) -> torch.dtype:
    return rng.choice((torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64))


def _bound(given: dict[str, Any], sums: Tensor) -> Tensor:
    """Of a product summed in float32 and rounded to the dtype of the values."""
    first = next(iter(given.values()))
    unit = {torch.float64: 1e-14, torch.float32: 3e-7, torch.bfloat16: 1e-2, torch.float16: 2e-3}[first.dtype]
    largest = 6e4 if first.dtype == torch.float16 else 1e37
    return torch.where(
        sums < largest,
        unit * (4 + sums.shape[-1]) * sums + (1e-6 if first.dtype == torch.float16 else 1e-37),
        torch.inf,
    )


def _too(call: Any, dtype: torch.dtype) -> Any:
    """float64 runs the twin: what float32 refuses is not to be accepted there."""
    if dtype != torch.float64:
        return None

    def also(**given: Any) -> str | None:
        narrow = {n: v.float() if isinstance(v, Tensor) and v.dtype == torch.float64 else v for n, v in given.items()}
        try:
            call(**narrow)
        except (ValueError, TypeError) as error:
            return f"float64 accepts what float32 refuses: {error}"
        return None

    return also


@target("jagged_dense_matmul")
def jagged_dense_matmul(rng: Rng) -> Case:
    dtype, rows = _kind(rng), rng.randint(0, 4)
    lengths, depth, width = rng.lengths(rows), rng.choice(SIZES), rng.choice(SIZES)
    args = {
        "values": rng.normal(sum(lengths), depth, dtype=dtype),
        "offsets": rng.offsets(lengths),
        "dense": rng.normal(rows, depth, width, dtype=dtype),
        "bias": rng.normal(rows, width, dtype=dtype) if rng.flip() else None,
    }

    def right(values: Tensor, offsets: Tensor, dense: Tensor, bias: Tensor | None) -> Tensor:
        wide = None if bias is None else bias.double()
        return products.dense_matmul(values.double(), dense.double(), offsets.long(), wide, False).to(values.dtype)

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        sums = right(
            **{n: v.double().abs() if n not in ("offsets",) and v is not None else v for n, v in given.items()}
        )
        return differs(found, expected, _bound(given, sums))

    return Case(ops.jagged_dense_matmul, args, right, judge, also=_too(ops.jagged_dense_matmul, dtype))


@target("jagged_jagged_matmul")
def jagged_jagged_matmul(rng: Rng) -> Case:
    dtype, lengths = _kind(rng), rng.lengths(rng.randint(0, 4))
    args = {
        "a": rng.normal(sum(lengths), rng.choice(SIZES), dtype=dtype),
        "b": rng.normal(sum(lengths), rng.choice(SIZES), dtype=dtype),
        "offsets": rng.offsets(lengths),
    }

    def right(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
        return products.jagged_matmul(a.double(), b.double(), offsets.long()).to(a.dtype)

    def judge(found: Any, expected: Any, given: dict[str, Any]) -> str | None:
        sums = right(given["a"].double().abs(), given["b"].double().abs(), given["offsets"])
        return differs(found, expected, _bound(given, sums))

    return Case(ops.jagged_jagged_matmul, args, right, judge, also=_too(ops.jagged_jagged_matmul, dtype))

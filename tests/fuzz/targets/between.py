"""What stands between the products of a search: the residual stream's norm, and heads turned by their positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genrec_fast import ops
from genrec_fast.ops.reference.residual_norm import residual_norm as _norm
from genrec_fast.ops.reference.rotary import rotary as _rotary

from ..case import Case, Rng, target
from ..compare import differs

DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16)
UNIT = {torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def _wide(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.double()


def _largest(given: dict[str, Any], names: tuple[str, ...]) -> float:
    held = [given[name].detach().double().abs() for name in names if given.get(name) is not None]
    return max((float(x.nan_to_num(torch.inf, torch.inf).max()) for x in held if x.numel()), default=0.0)


@target("residual_norm")
def residual_norm(rng: Rng) -> Case:
    dtype, rows, width = rng.choice(DTYPES), rng.choice((0, 1, 3)), rng.choice((1, 4, 8, 19))
    args: dict[str, Any] = {"x": rng.normal(rows, width, dtype=dtype), "weight": rng.normal(width, dtype=dtype)}
    if rng.flip(0.6):
        args["added"] = rng.normal(rows, width, dtype=dtype)
    if rng.flip(0.4):
        args["bias"] = rng.normal(width, dtype=dtype)
    args["kind"] = rng.choice(("rms", "layer"))
    args["epsilon"] = rng.choice((1e-2, 0.1))

    def right(**given: Any) -> list[Tensor]:
        x, added, kind = given["x"], given.get("added"), given.get("kind", "rms")
        small = float(given.get("epsilon", 1e-6))
        if kind not in ("rms", "layer") or not 0 <= small < math.inf:
            raise ValueError("settings that break their rules")
        total = x if added is None else x + added
        parts = _wide(given["weight"]), _wide(given.get("bias"))
        out, _ = _norm(total.double(), None, *parts, kind == "layer", small)
        return [out.to(x.dtype), total]

    def judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
        if complaint := differs(found[1], right[1], 0.0, "total"):
            return complaint
        big, small = _largest(given, ("x", "added", "weight", "bias")), float(given.get("epsilon", 1e-6))
        if big > 60.0 or small < 1e-2:  # then the norm may be a quotient of roundings
            return differs(found[0], right[0], math.inf, "out")
        return differs(found[0], right[0], UNIT[given["x"].dtype] * max(1.0, big) ** 2, "out")

    return Case(ops.residual_norm, args, right, judge)


@target("rotary")
def rotary(rng: Rng) -> Case:
    dtype, rows, width = rng.choice(DTYPES), rng.choice((0, 1, 3)), rng.choice((1, 4, 8, 19))
    places, turned = rng.randint(1, 6), 2 * rng.randint(0, width // 2)
    args: dict[str, Any] = {"x": rng.normal(rows, rng.choice((0, 1, 2)), width, dtype=dtype)}
    args["positions"] = rng.whole(0, places, rows)
    args["table"] = rng.normal(places, turned)
    if rng.flip(0.5):
        args["weight"] = rng.normal(width, dtype=dtype)
    args["epsilon"] = rng.choice((1e-2, 0.1))

    def right(**given: Any) -> Tensor:
        positions, table, small = given["positions"], given["table"], float(given.get("epsilon", 1e-6))
        if bool(((positions < 0) | (positions >= len(table))).any()) or not 0 <= small < math.inf:
            raise ValueError("a position outside the table, or a setting that breaks its rule")
        x = given["x"]
        found = _rotary(x.double(), positions, table.double(), _wide(given.get("weight")), small)
        return found.to(x.dtype)

    def judge(found: Any, right: Any, given: dict[str, Any]) -> str | None:
        big, small = _largest(given, ("x", "table", "weight")), float(given.get("epsilon", 1e-6))
        if big > 60.0 or small < 1e-2:
            return differs(found, right, math.inf)
        return differs(found, right, UNIT[given["x"].dtype] * max(1.0, big) ** 3)

    return Case(ops.rotary, args, right, judge)

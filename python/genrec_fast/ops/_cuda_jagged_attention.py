"""jagged_attention on a card: which kernels of ``csrc/cuda/jagged_attention*.cuh`` run, on how many blocks.

Nothing is read back: what only values can tell (the longest row, which row a tile belongs to, broken rules) is written
by the first kernel for the others. Rows that break a rule give NaN, and NaN gradients of the bias' tables.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.ops._cuda import int32, int64, launch

_FORWARD, _BACKWARD = "jagged_attention", "jagged_attention_backward"
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_TILE_BYTES = 32
_SHORT_ROWS = 32  # a mean length up to which a warp takes a row and head alone
_TABLE_TEAMS = 512  # teams that add up the gradients of a bias' tables, each into its own copy
_TABLE_FLOATS = 1 << 24  # of all those copies together
_MOST = (1 << 31) - 1


@dataclass(frozen=True)
class _Shape:
    """Which of the kernels: warps of a team, columns of a slab; see ``csrc/cuda/attention_tile.cuh``."""

    dtype: torch.dtype
    warps: int
    slab: int

    @property
    def name(self) -> str:
        return f"{'long' if self.warps > 1 else 'short'}{self.slab}_{_NAMES[self.dtype]}"

    @property
    def rows(self) -> int:
        """Queries, or keys, of a team's tile."""
        return 16 * self.warps

    @property
    def teams(self) -> int:
        """Of a block."""
        return 4 // self.warps

    def _bytes(self, rows: int) -> int:
        return rows * (self.slab * self.dtype.itemsize + 16)

    def forward_bytes(self) -> int:
        """Shared memory of a block, as ``ForwardShape`` counts it."""
        wide = self.dtype.itemsize == 4
        keys = 64 if self.warps > 1 else (16 if wide else 32)
        stages = 2 if self.warps > 1 and not wide and self.slab == 64 else 1
        return self.teams * self._bytes(self.rows + stages * 2 * keys)

    def backward_bytes(self, *, lines: bool, tables: bool) -> int:
        """As ``BackwardShape``: with lines of queries for owners of keys, with sums of tables for owners of queries."""
        other = 32 if self.warps > 1 else 16
        extra = (other * 40 if lines else 0) + (
            self.warps * (16 * (other + 1) * 4 + 16 * (other + 2) * 2) if tables else 0
        )
        return self.teams * (self._bytes(2 * self.rows + 2 * other) + extra)


def _shape(q: Tensor, k: Tensor, v: Tensor, num_rows: int) -> _Shape:
    wide = max(q.shape[2], v.shape[2]) > 64 and q.dtype == torch.bfloat16
    mean = max(q.shape[0], k.shape[0]) / max(num_rows, 1)
    if mean <= _SHORT_ROWS and not wide:
        return _Shape(q.dtype, 1, 64)
    return _Shape(q.dtype, 4, 128 if wide else 64)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, or a copy in which a row's heads lie side by side (a slice of a wider projection does as it is)."""
    heads, width = tensor.shape[1:]
    fits = (tensor.stride(2) == 1 or width == 1) and (tensor.stride(1) == width or heads == 1)
    return tensor if fits and tensor.stride(0) >= heads * width else tensor.contiguous()


def _whole_vectors(tensors: Sequence[Tensor]) -> bool:
    """Every head's row begins at a multiple of 16 bytes and consists of such."""

    def fits(x: Tensor) -> bool:
        vector = 16 // x.element_size()
        return x.data_ptr() % 16 == 0 and x.shape[2] % vector == 0 and x.stride(0) % vector == 0

    return all(fits(x) for x in tensors)


_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Args(ctypes.Structure):
    """``attention::Args`` of ``csrc/cuda/attention_plan.cuh``."""

    _fields_ = (
        *((name, _POINTER) for name in ("q", "k", "v")),
        *((name, _LONG) for name in ("q_stride", "k_stride", "v_stride", "num_queries", "num_keys")),
        *((name, _INT) for name in ("num_heads", "width", "value_width", "num_rows")),
        *((name, _POINTER) for name in ("offsets", "kv_offsets", "num_targets", "distance")),
        *((name, _INT) for name in ("distance_heads", "distance_size")),
        *(("time", _POINTER), ("time_heads", _INT), ("time_size", _INT)),
        *((name, _POINTER) for name in ("query_times", "key_times", "thresholds")),
        *((name, _INT) for name in ("num_thresholds", "softmax", "causal")),
        *(("alpha", _FLOAT), ("max_seq_len", _LONG), ("divide", _INT)),
        *((name, _INT) for name in ("group", "context", "window", "full")),
        *((name, ctypes.c_uint32) for name in ("dropout_threshold", "seed_low", "seed_high")),
        *(("kept_scale", _FLOAT), ("whole_vectors", _INT)),
    )


def _arguments(given: dict[str, Any], whole_vectors: bool) -> _Args:
    q, k, v, offsets = (given[name] for name in ("q", "k", "v", "offsets"))
    distance, time, thresholds = given["distance_bias"], given["time_bias"], given["thresholds"]
    tensors = ("q", "k", "v", "offsets", "kv_offsets", "num_targets", "query_times", "key_times", "thresholds")
    seed = given["seed"] & (1 << 64) - 1
    return _Args(
        **{name: _pointer(given[name]) for name in tensors},
        **{f"{name}_stride": given[name].stride(0) for name in ("q", "k", "v")},
        **{name: given[name] for name in ("softmax", "causal", "alpha", "divide")},
        num_queries=q.shape[0],
        num_keys=k.shape[0],
        num_heads=q.shape[1],
        width=q.shape[2],
        value_width=v.shape[2],
        num_rows=offsets.shape[0] - 1,
        distance=_pointer(distance),
        distance_heads=0 if distance is None else distance.shape[0],
        distance_size=0 if distance is None else distance.shape[1],
        time=_pointer(time),
        time_heads=0 if time is None else time.shape[0],
        time_size=0 if time is None else time.shape[1],
        num_thresholds=0 if thresholds is None else thresholds.numel(),
        max_seq_len=given["max_seq_len"],
        group=min(given["target_group_size"], _MOST),
        context=min(given["contextual_seq_len"], _MOST),
        window=min(given["max_attn_len"], _MOST),
        full=min(given["min_full_attn_seq_len"], _MOST),
        dropout_threshold=math.floor(given["dropout_p"] * 2**32),
        seed_low=seed & 0xFFFFFFFF,
        seed_high=seed >> 32,
        kept_scale=1.0 / (1.0 - given["dropout_p"]),
        whole_vectors=whole_vectors,
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@dataclass(frozen=True)
class _Plan:
    """A call's arguments as the kernels take them, and what the first kernel has written for the others."""

    shape: _Shape
    arguments: _Args
    status: Tensor
    tiles: Tensor
    key_tiles: Tensor | None

    @property
    def num_tiles(self) -> int:
        return self.tiles.shape[0]


def _plan(given: dict[str, Any], whole_vectors: bool, *, of_keys: bool) -> _Plan:
    q, k, v, offsets = (given[name] for name in ("q", "k", "v", "offsets"))
    num_rows = offsets.shape[0] - 1
    shape = _shape(q, k, v, num_rows)
    arguments = _arguments(given, whole_vectors)

    def room(elements: int) -> Tensor:
        count = elements // shape.rows + num_rows + 1
        return torch.empty(count, _TILE_BYTES // 4, dtype=torch.int32, device=q.device)

    # Whether a row is poisoned is asked by the gradients of tables alone.
    status = (torch.zeros if of_keys else torch.empty)(3, dtype=torch.int64, device=q.device)
    tiles, key_tiles = room(q.shape[0]), room(k.shape[0]) if of_keys else None
    launch(
        _FORWARD,
        "jagged_attention_tiles",
        (1 + -(-num_rows // 8), 1, 1),
        (256, 1, 1),
        0,
        [
            arguments,
            *(int32(shape.rows), tiles, int64(tiles.shape[0])),
            *(key_tiles, int64(0 if key_tiles is None else key_tiles.shape[0]), status),
        ],
    )
    return _Plan(shape, arguments, status, tiles, key_tiles)


def _blocks(units: int, shape: _Shape) -> int:
    return -(-units // shape.teams)


def _prepared(given: dict[str, Any]) -> dict[str, Any]:
    tables = {
        name: given[name] if given[name] is None else given[name].float() for name in ("distance_bias", "time_bias")
    }
    tables = {name: table if table is None else table.contiguous() for name, table in tables.items()}
    whole = {
        name: given[name] if given[name] is None else given[name].contiguous()
        for name in ("offsets", "kv_offsets", "num_targets", "query_times", "key_times", "thresholds")
    }
    return given | tables | whole | {name: _rows(given[name]) for name in ("q", "k", "v")}


def _check_tables(given: dict[str, Any]) -> None:
    """What the CPU's kernel refuses by shapes alone."""
    op, heads = "jagged_attention", given["q"].shape[1]
    distance, time, thresholds = given["distance_bias"], given["time_bias"], given["thresholds"]
    if distance is not None and (distance.shape[0] not in (1, heads) or distance.shape[1] % 2 == 0):
        raise InvalidValueError(
            f"{op}: bias must have 2M - 1 distances for one or all of {heads} heads, got {list(distance.shape)}"
        )
    if time is None:
        return
    count = 0 if thresholds is None else thresholds.numel()
    if time.shape[0] not in (1, heads) or count >= time.shape[1] or given["key_times"] is None:
        raise InvalidValueError(
            f"{op}: bias must have times, and one time weight more than thresholds, for one or all of {heads} heads, "
            f"got {list(time.shape)} and {count} thresholds"
        )


def forward(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The op's result and, with softmax, the log-sum-exp of every query's scores; arguments by their names."""
    _check_tables(given)
    given = _prepared(given)
    q, k, v, softmax = given["q"], given["k"], given["v"], given["softmax"]
    heads = q.shape[1]
    out = torch.empty(q.shape[0], heads, v.shape[2], dtype=q.dtype, device=q.device)
    sums = torch.empty(q.shape[0] if softmax else 0, heads, device=q.device)
    if not q.shape[0]:
        return out, sums
    plan = _plan(given, _whole_vectors((q, k, v)), of_keys=False)
    shape = plan.shape
    launch(
        _FORWARD,
        f"jagged_attention_{shape.name}",
        (_blocks(plan.num_tiles * heads, shape), -(-v.shape[2] // shape.slab), 1),
        (128, 1, 1),
        shape.forward_bytes(),
        [plan.arguments, plan.tiles, int64(plan.num_tiles), plan.status, out, sums if softmax else None],
    )
    return out, sums


def backward(grad: Tensor, out: Tensor, sums: Tensor, given: dict[str, Any]) -> list[Tensor | None]:
    """Gradients of q, k and v (in their dtype), of distance_bias and time_bias (float32, or None)."""
    given = _prepared(given)
    q, k, v, softmax = given["q"], given["k"], given["v"], given["softmax"]
    heads, device = q.shape[1], q.device
    grad, out = grad.to(q.dtype).contiguous(), out.contiguous()
    plan = _plan(given, _whole_vectors((q, k, v, grad)), of_keys=True)
    shape = plan.shape
    means = None
    if softmax:
        means = torch.empty(q.shape[0], heads, device=device)
        count = means.numel()
        launch(
            _BACKWARD,
            f"jagged_attention_means_{_NAMES[q.dtype]}",
            (max(-(-count // 8), 1), 1, 1),
            (256, 1, 1),
            0,
            [grad, out, int64(count), int32(v.shape[2]), means],
        )
    behind = [grad, out, sums if softmax else None, means]
    grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype, device=device) for x in (q, k, v))
    slabs = [-(-width // shape.slab) for width in (q.shape[2], v.shape[2])]
    assert plan.key_tiles is not None
    num_key_tiles = plan.key_tiles.shape[0]
    if k.shape[0]:
        launch(
            _BACKWARD,
            f"jagged_attention_keys_{shape.name}",
            (_blocks(num_key_tiles * heads, shape), max(slabs), 1),
            (128, 1, 1),
            shape.backward_bytes(lines=True, tables=False),
            [plan.arguments, plan.tiles, plan.key_tiles, int64(num_key_tiles), plan.status, *behind, grad_k, grad_v],
        )
    tables, workers = _tables(given, plan, heads)
    if q.shape[0]:
        launch(
            _BACKWARD,
            f"jagged_attention_queries_{shape.name}",
            (_blocks(workers * heads, shape), slabs[0], 1),
            (128, 1, 1),
            shape.backward_bytes(lines=False, tables=tables is not None),
            [plan.arguments, plan.tiles, int64(plan.num_tiles), int64(workers), plan.status, *behind, grad_q, tables],
        )
    return [grad_q, grad_k, grad_v, *_table_gradients(given, plan, tables, workers)]


def _table_sizes(given: dict[str, Any]) -> list[int]:
    return [0 if given[name] is None else given[name].shape[1] for name in ("distance_bias", "time_bias")]


def _tables(given: dict[str, Any], plan: _Plan, heads: int) -> tuple[Tensor | None, int]:
    """Every warp's own sums of the bias' tables, and how many teams of a head share the tiles."""
    size = sum(_table_sizes(given))
    if not size:
        return None, plan.num_tiles
    teams = max(1, min(_TABLE_TEAMS * plan.shape.teams, _TABLE_FLOATS // (size * plan.shape.warps)) // heads)
    workers = min(plan.num_tiles, teams)
    sums = torch.zeros(workers, heads, plan.shape.warps, size, device=plan.tiles.device)
    return sums, workers


def _table_gradients(given: dict[str, Any], plan: _Plan, tables: Tensor | None, workers: int) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    begin = 0
    for name, size in zip(("distance_bias", "time_bias"), _table_sizes(given), strict=True):
        table = given[name]
        found.append(None if table is None else torch.empty_like(table))
        if table is None:
            continue
        assert tables is not None
        sizes = [int32(x) for x in (given["q"].shape[1], plan.shape.warps, begin, tables.shape[3], size)]
        launch(
            _BACKWARD,
            "jagged_attention_table",
            (-(-size // 32), table.shape[0], 1),
            (256, 1, 1),
            0,
            [tables, int64(workers), *sizes, int32(table.shape[0] == 1), plan.status, found[-1]],
        )
        begin += size
    return found

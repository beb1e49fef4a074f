"""Biases that attention adds to its scores: given as small tables, looked up inside the tile."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import check_flag, real_number, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

MOST_THRESHOLDS = 65535  # the kernel keeps a bucket in 16 bits


class BiasTables(NamedTuple):
    """What the kernel reads; ``None`` where a bias has no such part."""

    distance: Tensor | None  # [1 or H, 2M - 1], read at M - 1 + key position - query position
    time: Tensor | None  # [1 or H, T], read at the bucket of |query time - key time|
    query_times: Tensor | None  # int64 [E]; None: each key's successor in its row, the last key its own
    key_times: Tensor | None  # int64 [E_kv]
    thresholds: Tensor | None  # int64 [at most T - 1], ascending: bucket = how many of them the gap reaches


@functools.cache
def _log_thresholds(num_buckets: int, divisor: float) -> Tensor:
    found: list[int] = []
    for bucket in range(1, num_buckets + 1):
        # floor(ln(g) / divisor) in float32, as the research code computes it, reaches the bucket at the least such g.
        low, high = found[-1] if found else 1, 2**62
        if int((torch.log(torch.tensor(high)) / divisor).long()) < bucket:
            break
        while low < high:
            middle = (low + high) // 2
            if int((torch.log(torch.tensor(middle)) / divisor).long()) >= bucket:
                high = middle
            else:
                low = middle + 1
        found.append(low)
    return torch.tensor(found, dtype=torch.int64)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def log_time_thresholds(num_buckets: int = 128, divisor: float = 0.301) -> Tensor:
    """int64: the least gap of each bucket of ``floor(ln(max(|gap|, 1)) / divisor)``, up to ``num_buckets``.

    Notes:
        Gaps beyond 2^62 are in no bucket of their own, so the result may be shorter than ``num_buckets``.

    Source: HSTU (arXiv:2402.17152, appendix); the divisor is its published code's.
    """
    op = "log_time_thresholds"
    num_buckets = whole_number(op, "num_buckets", num_buckets)
    divisor = real_number(op, "divisor", divisor)
    if num_buckets < 1 or not divisor > 0:
        raise InvalidValueError(
            f"{op}: num_buckets must be at least 1 and divisor above 0, got {num_buckets}, {divisor}"
        )
    num_buckets = whole_number(op, "num_buckets", num_buckets, 1, MOST_THRESHOLDS)
    return _log_thresholds(num_buckets, divisor).clone()


def t5_buckets(distances: Tensor, num_buckets: int, max_distance: int, *, bidirectional: bool) -> Tensor:
    """T5's bucket of each ``key position - query position``: half of them exact, the others growing logarithmically.

    Source: T5 (arXiv:1910.10683, section 2.1).
    """
    offset = torch.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offset = (distances > 0) * num_buckets
        distances = distances.abs()
    else:
        distances = (-distances).clamp(min=0)
    exact = num_buckets // 2
    far = torch.log(distances.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    return offset + torch.where(distances < exact, distances, (exact + far.long()).clamp(max=num_buckets - 1))


@dataclass(frozen=True, eq=False)
class RelativeTimeBias:
    """Research HSTU's bias: one weight per distance in positions plus one per bucket of the gap in time.

    ``bias[i, j] = pos_w[M - 1 + j - i] + ts_w[bucket(|t_query[i] - t_key[j]|)]``

    Args:
        pos_w: float ``[2M - 1]`` or ``[H, 2M - 1]``; no row may be longer than M. ``None``: time alone.
        ts_w: float ``[T]`` or ``[H, T]``; gaps beyond the last bucket read the last entry. ``None``: distances alone.
        timestamps: int64 ``[E_kv]``, of the keys, in any unit that the thresholds share (seconds by default); needed
            with ``ts_w``.
        query_timestamps: int64 ``[E]``; ``None``: each key's successor in its row, the last key its own (the research
            code: position i is asked at the time of event i + 1). Needed with ``kv_offsets``.
        thresholds: int64, ascending, at most ``T - 1``; ``None``: ``log_time_thresholds(T - 1)``.

    Source: HSTU (arXiv:2402.17152), section 3.2 and its published research code.
    """

    pos_w: Tensor | None
    ts_w: Tensor | None = None
    timestamps: Tensor | None = None
    query_timestamps: Tensor | None = None
    thresholds: Tensor | None = None

    def tables(self, num_heads: int, longest: int, *, cross: bool) -> BiasTables:
        op = "RelativeTimeBias"
        if self.ts_w is None and self.pos_w is None:
            raise InvalidValueError(f"{op}: pos_w or ts_w must be given, got None and None")
        distance = None if self.pos_w is None else _per_head(op, "pos_w", self.pos_w, num_heads)
        if distance is not None and distance.shape[1] % 2 == 0:
            raise InvalidValueError(f"{op}: pos_w must have 2M - 1 entries per head, got {distance.shape[1]}")
        if self.ts_w is None:
            return BiasTables(distance, None, None, None, None)
        require_tensors(op, None, ts_w=self.ts_w, timestamps=self.timestamps)
        time = _per_head(op, "ts_w", self.ts_w, num_heads)
        assert self.timestamps is not None  # require_tensors
        times, asked = self.timestamps, self.query_timestamps
        if asked is None and cross:
            raise InvalidValueError(f"{op}: query_timestamps must be given with kv_offsets, got None")
        for name, value in (("timestamps", times), ("query_timestamps", asked)):
            if value is None:
                continue
            require_tensors(op, None, **{name: value})
            if value.dtype != torch.int64 or value.dim() != 1:
                raise InvalidTypeError(
                    f"{op}: {name} must be int64 of one dimension, got {value.dtype} {list(value.shape)}"
                )
        limits = self.thresholds
        if limits is not None:
            require_tensors(op, None, thresholds=limits)
        else:
            most = time.shape[1] - 1
            limits = log_time_thresholds(min(max(most, 1), MOST_THRESHOLDS))[:most].to(times.device)
        if limits.dtype != torch.int64 or limits.dim() != 1:
            raise InvalidTypeError(
                f"{op}: thresholds must be int64 of one dimension, got {limits.dtype} {list(limits.shape)}"
            )
        if limits.numel() > time.shape[1] - 1:
            raise InvalidValueError(
                f"{op}: thresholds must be at most {time.shape[1] - 1}, one fewer than ts_w has entries, "
                f"got {limits.numel()}"
            )
        if limits.numel() > MOST_THRESHOLDS:
            raise InvalidValueError(f"{op}: thresholds must be at most {MOST_THRESHOLDS}, got {limits.numel()}")
        return BiasTables(distance, time, asked, times, limits)


@dataclass(frozen=True, eq=False)
class T5Bias:
    """T5's learned bias per head and bucket of the distance.

    Args:
        weight: float ``[num_buckets, H]``, as ``nn.Embedding`` holds it.
        bidirectional: give half of the buckets to keys behind the query.
        max_distance: from here on all distances share a bucket.

    Source: T5 (arXiv:1910.10683, section 2.1).
    """

    weight: Tensor
    bidirectional: bool
    max_distance: int = 128

    def tables(self, num_heads: int, longest: int, *, cross: bool) -> BiasTables:
        require_tensors("T5Bias", None, weight=self.weight)
        if not self.weight.is_floating_point():
            raise InvalidTypeError(f"T5Bias: weight must be float [num_buckets, H], got {self.weight.dtype}")
        if self.weight.dim() != 2 or self.weight.shape[1] != num_heads:
            raise InvalidValueError(f"T5Bias: weight must be [num_buckets, {num_heads}], got {list(self.weight.shape)}")
        exact = self.weight.shape[0] // (4 if check_flag("T5Bias", "bidirectional", self.bidirectional) else 2)
        if exact < 1:
            raise InvalidValueError(
                f"T5Bias: weight must have 2 buckets, or 4 if bidirectional, at least, got {self.weight.shape[0]}"
            )
        farthest = whole_number("T5Bias", "max_distance", self.max_distance, exact + 1, 2**31 - 1)
        distances = torch.arange(1 - longest, longest, device=self.weight.device)
        buckets = t5_buckets(distances, self.weight.shape[0], farthest, bidirectional=self.bidirectional)
        return BiasTables(self.weight[buckets].t(), None, None, None, None)


@dataclass(frozen=True, eq=False)
class ALiBi:
    """A penalty that grows linearly with the distance: ``bias[h, i, j] = -slopes[h] |i - j|``.

    Args:
        slopes: float ``[H]``; ``ALiBi.slopes_for(H)`` gives the published ones.

    Source: ALiBi (arXiv:2108.12409, section 3).
    """

    slopes: Tensor

    @staticmethod
    def slopes_for(num_heads: int) -> Tensor:
        """float32 ``[H]``: the geometric sequence of the paper, for any number of heads."""
        num_heads = whole_number("ALiBi", "num_heads", num_heads, 1, 1 << 16)
        power = 2 ** math.floor(math.log2(num_heads))
        slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
        slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(num_heads - power)]
        return torch.tensor(slopes)

    def tables(self, num_heads: int, longest: int, *, cross: bool) -> BiasTables:
        require_tensors("ALiBi", None, slopes=self.slopes)
        if not self.slopes.is_floating_point():
            raise InvalidTypeError(f"ALiBi: slopes must be float [H], got {self.slopes.dtype}")
        if self.slopes.dim() != 1 or self.slopes.shape[0] != num_heads:
            raise InvalidValueError(f"ALiBi: slopes must be [{num_heads}], one per head, got {list(self.slopes.shape)}")
        distances = torch.arange(1 - longest, longest, device=self.slopes.device)
        return BiasTables(-self.slopes[:, None] * distances.abs(), None, None, None, None)


AttentionBias = RelativeTimeBias | T5Bias | ALiBi


def _per_head(op: str, name: str, table: Tensor, num_heads: int) -> Tensor:
    require_tensors(op, None, **{name: table})
    if not table.is_floating_point():
        raise InvalidTypeError(f"{op}: {name} must be float, got {table.dtype}")
    if table.dim() == 1 and table.shape[0]:
        return table[None]
    if table.dim() != 2 or table.shape[0] not in (1, num_heads) or not table.shape[1]:
        raise InvalidValueError(f"{op}: {name} must be one row or [{num_heads}, ...] of them, got {list(table.shape)}")
    return table

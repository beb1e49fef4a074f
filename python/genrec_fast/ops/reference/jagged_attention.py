"""Twin of ``jagged_attention``: one user after the other, every score written out."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def visible(
    num_queries: int,
    num_keys: int,
    *,
    causal: bool,
    num_targets: int = 0,
    target_group_size: int = 1,
    contextual_seq_len: int = 0,
    max_attn_len: int = 0,
    min_full_attn_seq_len: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Bool ``[num_queries, num_keys]``: which keys each query of one user sees.

    Query i stands at position ``num_keys - num_queries + i``. Positions have ids: contextual ones share id 0, those
    behind count up, targets share the last id. A query sees itself and the lower ids (all other ids if not causal), at
    most ``max_attn_len`` of them back unless it is among the last ``min_full_attn_seq_len`` ids; targets of one group
    see each other (backwards if causal); contextual positions see all that are not targets.
    """
    columns = torch.arange(num_keys, device=device)
    rows = torch.arange(num_keys - num_queries, num_keys, device=device)
    shift, last = max(contextual_seq_len - 1, 0), num_keys - max(contextual_seq_len - 1, 0) - num_targets

    def ids(positions: Tensor) -> Tensor:
        found = (positions - shift).clamp(min=0) if contextual_seq_len else positions
        return found.clamp(max=last) if num_targets else found

    row_ids, column_ids = ids(rows)[:, None], ids(columns)[None, :]
    distance = row_ids - column_ids
    if not causal:
        distance = distance.abs()
    mask = (distance > 0) | (rows[:, None] == columns[None, :])
    if max_attn_len:
        near = distance <= max_attn_len
        if min_full_attn_seq_len:
            near = near | (row_ids >= last - min_full_attn_seq_len)
        mask = mask & near
    if contextual_seq_len:
        mask = mask | ((row_ids == 0) & (column_ids < last))
    if num_targets and target_group_size > 1:
        first = num_keys - num_targets
        row_group = torch.div(rows - first, target_group_size, rounding_mode="floor")[:, None]
        column_group = torch.div(columns - first, target_group_size, rounding_mode="floor")[None, :]
        together = (row_group == column_group) & (rows[:, None] >= first) & (columns[None, :] >= first)
        mask = mask | (together & (columns[None, :] <= rows[:, None]) if causal else together)
    return mask


def time_buckets(query_times: Tensor, key_times: Tensor, thresholds: Tensor) -> Tensor:
    """int64 ``[Lq, Lk]``: how many thresholds ``|query time - key time|`` reaches."""
    gap = (query_times[:, None] - key_times[None, :]).abs()
    return torch.bucketize(gap, thresholds, right=True)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words that scatters them well, on int64."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def dropout_mask(queries: Tensor, keys: Tensor, num_heads: int, probability: float, seed: int) -> Tensor:
    """Bool ``[H, Lq, Lk]``: the weights that are kept; ``queries``, ``keys`` are row numbers of q and k, int64.

    A weight's number is ``mix(row + key * 0x9E3779B9)``, ``row = mix(low ^ mix(high ^ mix(query ^ mix(head))))`` with
    the low and high half of the seed, all in 32 bits; it is kept where the number reaches ``floor(p * 2^32)``.
    """
    word = 0xFFFFFFFF
    heads = _mix(torch.arange(num_heads, device=queries.device))
    row = _mix((queries & word)[None, :] ^ heads[:, None])
    row = _mix(row ^ (seed >> 32 & word))
    row = _mix(row ^ (seed & word))
    number = _mix((row[:, :, None] + (keys & word) * 0x9E3779B9) & word)
    return number >= math.floor(probability * 2**32)


def jagged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    kv_offsets: Tensor,
    num_targets: Tensor | None,
    distance_bias: Tensor | None,
    time_bias: Tensor | None,
    query_times: Tensor | None,
    key_times: Tensor | None,
    thresholds: Tensor | None,
    softmax: bool,
    causal: bool,
    alpha: float,
    max_seq_len: int,
    divide: bool,
    target_group_size: int,
    contextual_seq_len: int,
    max_attn_len: int,
    min_full_attn_seq_len: int,
    dropout_p: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """See ``genrec_fast.ops.jagged_attention``.

    ``distance_bias [1 or H, 2M - 1]`` is read at ``M - 1 + key position - query position``, ``time_bias [1 or H, T]``
    at the bucket of ``time_buckets``; ``divide``: by ``max_seq_len``, or by the longest row where it is 0. Also returns
    the log-sum-exp of each query's scores, float32 ``[E, H]`` (silu: empty). bfloat16 is computed in float32.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    starts, kv_starts = offsets.tolist(), kv_offsets.tolist()
    longest = max((end - begin for begin, end in itertools.pairwise(kv_starts)), default=0)
    scale = 1.0 / (max_seq_len or max(longest, 1)) if divide and not softmax else 1.0
    # No rows at all: an empty result that autograd still traces to its inputs.
    outs = [((q[:0, :, :1] + k[:0, :, :1]) * v[:0]).to(exact)]
    sums = [q.new_zeros(0, q.shape[1], dtype=exact)]
    for row in range(len(starts) - 1):
        a, b = slice(starts[row], starts[row + 1]), slice(kv_starts[row], kv_starts[row + 1])
        num_queries, num_keys = a.stop - a.start, b.stop - b.start
        queries, keys, values = (x.transpose(0, 1).to(exact) for x in (q[a], k[b], v[b]))
        scores = queries @ keys.transpose(1, 2) * alpha  # [H, Lq, Lk]
        columns = torch.arange(num_keys, device=q.device)
        rows = torch.arange(num_keys - num_queries, num_keys, device=q.device)
        if distance_bias is not None:
            centre = distance_bias.shape[1] // 2
            scores = scores + distance_bias[:, centre + columns[None, :] - rows[:, None]].to(exact)
        if time_bias is not None:
            assert key_times is not None
            assert thresholds is not None
            times = key_times[b]
            asked = torch.cat([times[1:], times[-1:]]) if query_times is None else query_times[a]
            buckets = time_buckets(asked, times, thresholds)
            scores = scores + time_bias[:, buckets.clamp(max=time_bias.shape[1] - 1)].to(exact)
        mask = visible(
            num_queries,
            num_keys,
            causal=causal,
            num_targets=0 if num_targets is None else int(num_targets[row]),
            target_group_size=target_group_size,
            contextual_seq_len=contextual_seq_len,
            max_attn_len=max_attn_len,
            min_full_attn_seq_len=min_full_attn_seq_len,
            device=q.device,
        )
        if softmax:
            scores = scores.masked_fill(~mask, -math.inf)
            blind = ~mask.any(1)  # a query that sees nothing gives 0
            total = torch.logsumexp(scores.masked_fill(blind[:, None], 0.0), -1).masked_fill(blind, -math.inf)
            weights = torch.exp(scores - total.masked_fill(blind, 0.0)[:, :, None])
            sums.append(total.transpose(0, 1))
        else:
            weights = (F.silu(scores) * scale).masked_fill(~mask, 0.0)
        if dropout_p > 0:
            a_rows = torch.arange(a.start, a.stop, device=q.device)
            b_rows = torch.arange(b.start, b.stop, device=q.device)
            kept = dropout_mask(a_rows, b_rows, q.shape[1], dropout_p, seed)
            weights = weights * kept / (1.0 - dropout_p)
        outs.append((weights @ values).transpose(0, 1))
    return torch.cat(outs).to(q.dtype), torch.cat(sums)

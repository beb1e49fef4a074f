"""Twins of ``transformer``'s ops: plain layers over one user at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops.reference._transformer_layers import Layers, bias_of, looked_up


def transformer_prefill(
    weights: Tensor,
    rows: Tensor,
    offsets: Tensor,
    rotary: Tensor | None,
    distance: Tensor | None,
    cross: Tensor | None,
    cross_offsets: Tensor | None,
    first_table: Tensor | None,
    tokens: Tensor | None,
    stack: int,
    num_layers: int,
    only_last: bool,
    past: Sequence[Tensor] = (),
    past_rows: Tensor | None = None,
    past_used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each prompt by itself, through every layer."""
    layers = Layers(weights, stack)
    users = offsets.numel() - 1
    used = [0] * users if past_used is None else past_used.tolist()
    held = [0] * users if past_rows is None else past_rows.tolist()
    spec = layers.spec
    ends = layers.cells(offsets + torch.tensor([0, *itertools.accumulate(used)], device=offsets.device))
    cache = rows.new_empty(spec.num_layers, ends[-1])
    hidden = []
    for user in range(users):
        mine = slice(int(offsets[user]), int(offsets[user + 1]))
        x, known = rows[mine], looked_up(first_table, tokens, mine)
        keys_at = torch.arange(used[user] + x.shape[0], device=x.device)
        at = keys_at[used[user] :]
        seen = (keys_at <= at[:, None]) if spec.causal else None
        if spec.window:
            near = keys_at > at[:, None] - spec.window
            seen = near if seen is None else seen & near
        for layer in range(spec.num_layers):
            place = f"layers.{layer}"
            q, k, v = layers.queries_keys_values(place, x, None if rotary is None else rotary[at], known)
            if used[user]:
                before = layers.kept(past[user].view(spec.num_layers, -1)[layer], held[user])
                k, v = (torch.cat([part[: used[user]], new]) for part, new in zip(before, (k, v), strict=True))
            layers.keep(k, v, cache[layer, ends[user] : ends[user + 1]])
            mixed = layers.attended(q, k, v, seen, bias_of(distance, at, keys_at))
            x = layers.cross(layer, x + layers.linear(f"{place}.attended", mixed), user, cross, cross_offsets)
            x = layers.feed_forward(place, x)
        hidden.append(layers.norm("last_norm", x[-1:] if only_last else x))
    return torch.cat(hidden) if hidden else rows[:0], cache.flatten()


def transformer_first(weights: Tensor, rows: Tensor, stack: int, mixed_width: int) -> Tensor:
    """The first layer's queries, keys and values, not turned."""
    return Layers(weights, stack).mixed("layers.0", rows)


def transformer_cross(weights: Tensor, rows: Tensor, offsets: Tensor, stack: int) -> Tensor:
    """Keys and values of the encoder's rows, layer by layer."""
    layers = Layers(weights, stack)
    spec, ends = layers.spec, layers.cells(offsets)
    cache = rows.new_empty(spec.num_layers, ends[-1])
    for user in range(offsets.numel() - 1):
        x = rows[int(offsets[user]) : int(offsets[user + 1])]
        for layer in range(spec.num_layers):
            pairs = layers.linear(f"layers.{layer}.cross_kv", x).view(-1, 2, spec.num_kv_heads, spec.head_width)
            layers.keep(pairs[:, 0], pairs[:, 1], cache[layer, ends[user] : ends[user + 1]])
    return cache.flatten()

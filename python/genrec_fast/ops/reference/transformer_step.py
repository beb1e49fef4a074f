"""Twin of ``transformer_step``: row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops.reference._transformer_layers import Layers, bias_of, looked_up


def transformer_step(
    weights: Tensor,
    rows: Tensor,
    offsets: Tensor,
    cache: Tensor,
    chain: list[Tensor],
    ancestors: Tensor,
    parts: Tensor | None,
    rotary: Tensor | None,
    distance: Tensor | None,
    cross: Tensor | None,
    cross_offsets: Tensor | None,
    first_table: Tensor | None,
    tokens: Tensor | None,
    stack: int,
    num_layers: int,
    kept: int,
) -> tuple[Tensor, Tensor]:
    """Row by row over the prompt and the row's own chain: an ancestor of the same call stands before its children."""
    layers = Layers(weights, stack)
    spec, ends = layers.spec, layers.cells(offsets)
    beams = rows.shape[0] // (offsets.numel() - 1)
    own = rows.new_empty(spec.num_layers, rows.shape[0], kept)
    hidden = []
    for row in range(rows.shape[0]):
        user = row // beams
        x, keys = rows[row : row + 1], int(offsets[user + 1] - offsets[user])
        of = range(len(chain)) if parts is None else [part for part in parts[:, row].tolist() if part >= 0]
        links = [((*chain, own)[part], int(ancestors[depth, row])) for depth, part in enumerate(of)]
        links.append((own, row))
        known = looked_up(first_table, tokens, slice(row, row + 1))
        key_at = torch.arange(keys + len(links), device=x.device)
        at = key_at[-1:]
        seen = (key_at > at[:, None] - spec.window) if spec.window else None
        for layer in range(spec.num_layers):
            place = f"layers.{layer}"
            q, k, v = layers.queries_keys_values(place, x, None if rotary is None else rotary[at], known)
            own[layer, row] = torch.cat([k, v], 1).flatten()
            chained = torch.stack([part[layer, link] for part, link in links]).view(len(links), 2, *k.shape[1:])
            cell = cache.view(spec.num_layers, -1)[layer, ends[user] : ends[user + 1]]
            all_k, all_v = (torch.cat([prompt, chained[:, i]]) for i, prompt in enumerate(layers.kept(cell, keys)))
            mixed = layers.attended(q, all_k, all_v, seen, bias_of(distance, at, key_at))
            x = layers.cross(layer, x + layers.linear(f"{place}.attended", mixed), user, cross, cross_offsets)
            x = layers.feed_forward(place, x)
        hidden.append(layers.norm("last_norm", x))
    return torch.cat(hidden) if hidden else rows[:0], own

"""Twins of the ``transformer_*`` ops: plain layers over one user at a time.

The cache has the kernel's layout: layer by layer, user by user, head by head, panels of keys and panels of values;
bfloat16 in pairs, seen as float32, where the weights are not float32 and the instruction set multiplies it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.ops._registry import core
from genrec_fast.ops.transformer_pack import PackedStack, unpack_stacks, unpack_weights
from genrec_fast.ops.transformer_spec import TransformerSpec

__all__ = ["transformer_cross", "transformer_first", "transformer_head", "transformer_prefill", "transformer_step"]


class _Layers:
    """The weights of a stack, and its layers' parts by name."""

    def __init__(self, weights: Tensor, stack: int) -> None:
        self.packed: PackedStack = unpack_stacks(weights)[0][stack]
        self.spec: TransformerSpec = self.packed.spec
        self.panel, precision = weights[24:40].view(torch.int64).tolist()
        self.group = 2 if precision and core.transformer_sizes()[1] else 1
        self.of = unpack_weights(self.packed)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.of.get(f"{name}.weight"), self.of.get(f"{name}.bias")
        if weight is None:
            return x
        if self.spec.norm == "layer":
            return functional.layer_norm(x, (x.shape[-1],), weight, bias, self.spec.epsilon)
        return functional.rms_norm(x, (x.shape[-1],), weight, self.spec.epsilon)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.of[f"{name}.weight"], self.of.get(f"{name}.bias"))

    def feed_forward(self, layer: str, x: Tensor) -> Tensor:
        h, name = self.norm(f"{layer}.before_feed_forward", x), self.spec.activation
        kinds: dict[str, Callable[[Tensor], Tensor]] = {"relu": lambda y: y.relu(), "silu": functional.silu}
        kinds |= {"gelu": functional.gelu, "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh")}
        inner = kinds[name](self.linear(f"{layer}.{'gate' if self.spec.gated else 'up'}", h))
        return x + self.linear(f"{layer}.down", inner * self.linear(f"{layer}.up", h) if self.spec.gated else inner)

    def mixed(self, layer: str, x: Tensor) -> Tensor:
        return self.linear(f"{layer}.qkv", self.norm(f"{layer}.before_attention", x))

    def queries_keys_values(
        self, layer: str, x: Tensor, turns: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``[S, heads, width]`` each; ``turns`` are the rows' own of the rotary table, ``known`` the first layer's."""
        spec = self.spec
        mixed = self.mixed(layer, x) if known is None or layer != "layers.0" else known
        mixed = mixed.view(x.shape[0], spec.num_heads + 2 * spec.num_kv_heads, spec.head_width)
        q, k, v = mixed.split([spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], 1)
        if spec.qk_norm:
            q = functional.rms_norm(q, (spec.head_width,), self.of[f"{layer}.q_norm.weight"], spec.epsilon)
            k = functional.rms_norm(k, (spec.head_width,), self.of[f"{layer}.k_norm.weight"], spec.epsilon)
        if turns is not None:
            q, k = _turned(q, turns), _turned(k, turns)
        return q, k, v

    def attended(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, bias: Tensor | None) -> Tensor:
        """``[S, heads * width]`` of q ``[S, H, width]``, k and v ``[S, Sk, KV, width]`` or without the first."""
        group = self.spec.num_heads // self.spec.num_kv_heads
        k, v = k.repeat_interleave(group, -2), v.repeat_interleave(group, -2)
        scores = torch.einsum("shd,skhd->hsk" if k.dim() == 4 else "shd,khd->hsk", q, k) * self.spec.score_scale
        if bias is not None:
            scores = scores + bias
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        weights = scores.softmax(-1)
        out = torch.einsum("hsk,skhd->shd" if v.dim() == 4 else "hsk,khd->shd", weights, v)
        return out.reshape(q.shape[0], -1)

    # ---- the cache

    def cell(self, keys: int) -> int:
        width, group = self.spec.head_width, self.group
        elements = self._padded(keys) * _whole(width, group) + self._padded(width) * _whole(keys, group)
        return elements // group

    def _padded(self, count: int) -> int:
        return _whole(count, self.panel)

    def cells(self, offsets: Tensor) -> list[int]:
        ends = [0]
        for keys in (offsets[1:] - offsets[:-1]).tolist():
            ends.append(ends[-1] + self.spec.num_kv_heads * self.cell(keys))
        return ends

    def keep(self, k: Tensor, v: Tensor, cache: Tensor) -> None:
        """Keys and values ``[S, KV, width]`` into one user's part of a layer."""
        keys, heads, width = k.shape
        group, panel = self.group, self.panel
        kind = torch.bfloat16 if group == 2 else torch.float32
        for head, cell in enumerate(cache.view(heads, -1)):
            room = cell.view(kind)
            padded = functional.pad(k[:, head].to(kind), (0, -width % group, 0, -keys % panel))
            room[: padded.numel()] = padded.view(-1, panel, padded.shape[1] // group, group).transpose(1, 2).flatten()
            wide = functional.pad(v[:, head].to(kind), (0, -width % panel, 0, -keys % group))
            pairs = wide.view(wide.shape[0] // group, group, -1, panel).permute(2, 0, 3, 1)
            room[padded.numel() :] = pairs.flatten()

    def kept(self, cache: Tensor, keys: int) -> tuple[Tensor, Tensor]:
        heads, width, group, panel = self.spec.num_kv_heads, self.spec.head_width, self.group, self.panel
        words = _whole(width, group) // group
        cells = cache.view(heads, -1).view(torch.bfloat16 if group == 2 else torch.float32)
        size = self._padded(keys) * words * group
        k = cells[:, :size].view(heads, -1, words, panel, group).transpose(2, 3).reshape(heads, -1, words * group)
        v = cells[:, size:].view(heads, self._padded(width) // panel, -1, panel, group).permute(0, 2, 4, 1, 3)
        v = v.reshape(heads, -1, self._padded(width))
        return k[:, :keys, :width].transpose(0, 1).float(), v[:, :keys, :width].transpose(0, 1).float()

    def cross(self, layer: int, x: Tensor, user: int, cross: Tensor | None, offsets: Tensor | None) -> Tensor:
        """Rows with what cross-attention adds to them."""
        if cross is None or offsets is None or not self.spec.cross_width:
            return x
        place = f"layers.{layer}"
        ends = self.cells(offsets)
        part = cross.view(self.spec.num_layers, -1)[layer, ends[user] : ends[user + 1]]
        k, v = self.kept(part, int(offsets[user + 1] - offsets[user]))
        q = self.linear(f"{place}.cross_q", self.norm(f"{place}.before_cross", x))
        q = q.view(x.shape[0], self.spec.num_heads, self.spec.head_width)
        return x + self.linear(f"{place}.cross_attended", self.attended(q, k, v, None, None))


def _whole(count: int, size: int) -> int:
    return -(-count // size) * size


def _looked_up(table: Tensor | None, tokens: Tensor | None, rows: slice) -> Tensor | None:
    return None if table is None or tokens is None else table[tokens[rows]]


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    half = turns.shape[1] // 2
    cosine, sine = turns[:, None, :half], turns[:, None, half:]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine, rest], -1)


def _bias(distance: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
    """``[H, S, Sk]`` of positions ``[S]`` and ``[Sk]``."""
    return None if distance is None else distance[:, distance.shape[1] // 2 + keys - queries[:, None]]


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
    layers = _Layers(weights, stack)
    users = offsets.numel() - 1
    used = [0] * users if past_used is None else past_used.tolist()
    held = [0] * users if past_rows is None else past_rows.tolist()
    spec = layers.spec
    ends = layers.cells(offsets + torch.tensor([0, *itertools.accumulate(used)], device=offsets.device))
    cache = rows.new_empty(spec.num_layers, ends[-1])
    hidden = []
    for user in range(users):
        mine = slice(int(offsets[user]), int(offsets[user + 1]))
        x, known = rows[mine], _looked_up(first_table, tokens, mine)
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
            mixed = layers.attended(q, k, v, seen, _bias(distance, at, keys_at))
            x = layers.cross(layer, x + layers.linear(f"{place}.attended", mixed), user, cross, cross_offsets)
            x = layers.feed_forward(place, x)
        hidden.append(layers.norm("last_norm", x[-1:] if only_last else x))
    return torch.cat(hidden) if hidden else rows[:0], cache.flatten()


def transformer_first(weights: Tensor, rows: Tensor, stack: int, mixed_width: int) -> Tensor:
    """The first layer's queries, keys and values, not turned."""
    return _Layers(weights, stack).mixed("layers.0", rows)


def transformer_cross(weights: Tensor, rows: Tensor, offsets: Tensor, stack: int) -> Tensor:
    """Keys and values of the encoder's rows, layer by layer."""
    layers = _Layers(weights, stack)
    spec, ends = layers.spec, layers.cells(offsets)
    cache = rows.new_empty(spec.num_layers, ends[-1])
    for user in range(offsets.numel() - 1):
        x = rows[int(offsets[user]) : int(offsets[user + 1])]
        for layer in range(spec.num_layers):
            pairs = layers.linear(f"layers.{layer}.cross_kv", x).view(-1, 2, spec.num_kv_heads, spec.head_width)
            layers.keep(pairs[:, 0], pairs[:, 1], cache[layer, ends[user] : ends[user + 1]])
    return cache.flatten()


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
    layers = _Layers(weights, stack)
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
        known = _looked_up(first_table, tokens, slice(row, row + 1))
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
            mixed = layers.attended(q, all_k, all_v, seen, _bias(distance, at, key_at))
            x = layers.cross(layer, x + layers.linear(f"{place}.attended", mixed), user, cross, cross_offsets)
            x = layers.feed_forward(place, x)
        hidden.append(layers.norm("last_norm", x))
    return torch.cat(hidden) if hidden else rows[:0], own


def transformer_head(
    weights: Tensor, hidden: Tensor, stack: int, first: int, last: int, log_sums: bool
) -> tuple[Tensor, Tensor]:
    """All logits, then what was asked for."""
    logits = _Layers(weights, stack).linear("head", hidden)
    return logits[:, first:last], logits.logsumexp(1) if log_sums else logits.new_empty(0)

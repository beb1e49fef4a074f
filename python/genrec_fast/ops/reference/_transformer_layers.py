"""What the twins of the ``transformer_*`` ops are made of: plain layers over one user at a time.

The cache has the kernel's layout: layer by layer, user by user, head by head, panels of keys and panels of values;
bfloat16 in pairs, seen as float32, where the weights are not float32 and the instruction set multiplies it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.ops._registry import core
from genrec_fast.ops.transformer_pack import PackedStack, unpack_stacks, unpack_weights
from genrec_fast.ops.transformer_spec import TransformerSpec


class Layers:
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


def looked_up(table: Tensor | None, tokens: Tensor | None, rows: slice) -> Tensor | None:
    return None if table is None or tokens is None else table[tokens[rows]]


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    half = turns.shape[1] // 2
    cosine, sine = turns[:, None, :half], turns[:, None, half:]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine, rest], -1)


def bias_of(distance: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
    """``[H, S, Sk]`` of positions ``[S]`` and ``[Sk]``."""
    return None if distance is None else distance[:, distance.shape[1] // 2 + keys - queries[:, None]]

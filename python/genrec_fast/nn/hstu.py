"""The layer of HSTU: attention without a softmax, gated pointwise."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.packed import Packing
from genrec_fast.nn.rotary import rotate
from genrec_fast.ops import RelativeTimeBias, jagged_attention

__all__ = ["HSTULayer", "RelativeBias"]


class RelativeBias(nn.Module):
    """Learned weights per distance in positions and per bucket of the gap in time, added to the scores of all heads.

    Args:
        max_seq_len: the longest row, M; the table of distances has ``2M - 1`` entries. 0: no distances.
        num_buckets: of gaps, ``floor(ln(max(gap, 1)) / 0.301)``, one more for all beyond. 0: no times.

    Source: HSTU (arXiv:2402.17152), section 3.2, as its published research code has it.
    """

    def __init__(self, max_seq_len: int, num_buckets: int) -> None:
        super().__init__()
        if not max_seq_len and not num_buckets:
            raise InvalidValueError("RelativeBias: max_seq_len or num_buckets must be above 0, got 0 and 0")
        self.pos_w = nn.Parameter(torch.empty(2 * max_seq_len - 1).normal_(std=0.02)) if max_seq_len else None
        self.ts_w = nn.Parameter(torch.empty(num_buckets + 1).normal_(std=0.02)) if num_buckets else None

    def forward(self, rows: Packing) -> RelativeTimeBias:
        """The bias of these rows.

        Raises:
            InvalidValueError: no times, and the bias reads times.
        """
        if self.ts_w is None:
            return RelativeTimeBias(self.pos_w)
        if rows.timestamps is None or rows.query_timestamps is None:
            raise InvalidValueError("RelativeBias: rows must have timestamps, as the bias reads them, got None")
        return RelativeTimeBias(self.pos_w, self.ts_w, rows.timestamps, rows.query_timestamps)


class HSTULayer(nn.Module):
    """One layer of HSTU over packed rows.

    ::

        u, v, q, k = split(silu(linear(norm(x))))                                   equation 1
        a = attention(q, k, v)                silu(alpha q k + bias) / N            equation 2
        x + linear(dropout(u * norm(a)))                                            equation 3

    Args:
        width: channels D.
        num_heads: H.
        qk_dim: channels of a query and key per head.
        v_dim: channels of a value and gate per head.
        kind: "silu", or "softmax" in its place.
        activate: "all": silu over u, v, q and k (the paper, the research code); "gate": over u alone (production).
        norm: of a: "layer" over all heads, "group" per head.
        epsilon: of both norms.
        alpha: factor of the scores; ``None``: ``1 / sqrt(qk_dim)``.
        rotary: turn q and k by their positions; needs an even qk_dim.
        dropout: rate, on what goes into the output projection.
        attention_dropout: rate, on the weights of the attention; seeds come from torch's generator.
        max_attn_len: positions a query looks back at most; 0: all.
        bias: added to the scores, or ``None``.

    Notes:
        ``2 (D (2 H v_dim + 2 H qk_dim) + H v_dim D)`` flops a token and the attention's; no tensor is padded. A layer's
        output for a token depends on that token, its query time, and the tokens its mask shows, nothing else.

    Source: HSTU (arXiv:2402.17152), equations 1-3.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        qk_dim: int,
        v_dim: int,
        *,
        kind: Literal["silu", "softmax"] = "silu",
        activate: Literal["all", "gate"] = "all",
        norm: Literal["layer", "group"] = "layer",
        epsilon: float = 1e-6,
        alpha: float | None = None,
        rotary: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        max_attn_len: int = 0,
        bias: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        if rotary and qk_dim % 2:
            raise InvalidValueError(f"HSTULayer: qk_dim must be even with rotary, got {qk_dim}")
        self.num_heads, self.qk_dim, self.v_dim = num_heads, qk_dim, v_dim
        self.kind, self.activate, self.alpha, self.rotary = kind, activate, alpha, rotary
        self.attention_dropout, self.max_attn_len = attention_dropout, max_attn_len
        self.input_norm = nn.LayerNorm(width, eps=epsilon)
        self.uvqk = nn.Linear(width, 2 * num_heads * (qk_dim + v_dim))
        inner = num_heads * v_dim
        self.attention_norm = (
            nn.LayerNorm(inner, eps=epsilon) if norm == "layer" else nn.GroupNorm(num_heads, inner, eps=epsilon)
        )
        self.out = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)
        self.bias = bias

    def forward(self, x: Tensor, rows: Packing, layer: int = 0) -> Tensor:
        """``x [E, D]``, end to end -> ``[E, D]``; ``layer``: under which number ``rows.past`` knows this one."""
        gates, keyed = self.num_heads * self.v_dim, self.num_heads * self.qk_dim
        mixed = self.uvqk(self.input_norm(x))
        if self.activate == "all":
            mixed = F.silu(mixed)
        u, v, q, k = mixed.split([gates, gates, keyed, keyed], 1)
        if self.activate == "gate":
            u = F.silu(u)
        q, k = (part.reshape(-1, self.num_heads, self.qk_dim) for part in (q, k))
        v = v.reshape(-1, self.num_heads, self.v_dim)
        if self.rotary:
            q, k = rotate(q, rows.positions), rotate(k, rows.positions)
        if rows.past is not None:
            k, v = rows.past.join(layer, k, v)
        rate = self.attention_dropout if self.training else 0.0
        attended = jagged_attention(
            q,
            k,
            v,
            rows.offsets,
            kind=self.kind,
            max_seq_len=rows.max_seq_len,
            alpha=self.alpha,
            num_targets=rows.num_targets,
            contextual_seq_len=rows.contextual_seq_len,
            max_attn_len=self.max_attn_len,
            bias=None if self.bias is None else self.bias(rows),
            dropout_p=rate,
            seed=int(torch.randint(2**62, ())) if rate else None,
            kv_offsets=rows.kv_offsets,
        )
        gated = u * self.attention_norm(attended.reshape(-1, gates))
        out: Tensor = x + self.out(self.dropout(gated))
        return out

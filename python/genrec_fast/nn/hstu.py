"""The layer of HSTU: attention without a softmax, gated pointwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.packed import Packing
from genrec_fast.nn.rotary import rotate
from genrec_fast.ops import RelativeTimeBias, jagged_attention

_KINDS, _ITEM = 4, 1  # kinds of tokens, and the one that an item is


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


@dataclass(frozen=True, kw_only=True)
class HSTULayerConfig:
    """Settings of ``HSTULayer``; the defaults are the research form."""

    width: int = 64  # channels
    num_heads: int = 2
    qk_dim: int = 32  # channels of a query and a key per head
    v_dim: int = 32  # channels of a value and a gate per head
    attention: Literal["silu", "softmax"] = "silu"  # what makes weights of the scores
    activate: Literal["all", "gate"] = "all"  # silu over u, v, q, k (the paper), or over the gate alone (production)
    norm: Literal["layer", "group"] = "layer"  # of what was attended: over all heads, or per head
    norms_by_kind: bool = field(default=False, metadata={"absent": False})  # weights of their own per kind of token
    epsilon: float = field(default=1e-6, metadata={"absent": 1e-5})  # of the norms; before it was a setting, 1e-5
    alpha: float | None = 1.0  # factor of the scores; None: 1 / sqrt(qk_dim) (production)
    rotary: bool = False  # turn queries and keys by their positions
    max_attn_len: int = 0  # tokens a query looks back at most; 0: all
    dropout: float = 0.2  # rate, on the input and on what goes into each output projection
    attention_dropout: float = 0.0  # rate, on the weights of the attention


class NormByKind(nn.ModuleList):
    """A layer norm whose weights and biases are of the token's kind (``Packing.kinds``).

    Args:
        width: channels D.
        epsilon: of the norms.

    Source: MTGR (arXiv:2505.18654), group layer normalisation.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__(nn.LayerNorm(width, eps=epsilon) for _ in range(_KINDS))
        self.width, self.epsilon = width, epsilon

    def forward(self, x: Tensor, kinds: Tensor | None) -> Tensor:
        """``x [E, D]`` of ``kinds [E]`` -> ``[E, D]``."""
        kinds = torch.full((len(x),), _ITEM, device=x.device) if kinds is None else kinds
        norms = [norm for norm in self if isinstance(norm, nn.LayerNorm)]
        weights, biases = torch.stack([norm.weight for norm in norms]), torch.stack([norm.bias for norm in norms])
        return F.layer_norm(x, (self.width,), eps=self.epsilon) * weights[kinds] + biases[kinds]


def _normed(norm: nn.Module, x: Tensor, rows: Packing) -> Tensor:
    out: Tensor = norm(x, rows.kinds) if isinstance(norm, NormByKind) else norm(x)
    return out


class HSTULayer(nn.Module):
    """One layer of HSTU over packed rows.

    ::

        u, v, q, k = split(silu(linear(norm(x))))                                   equation 1
        a = attention(q, k, v)                silu(alpha q k + bias) / N            equation 2
        x + linear(dropout(u * norm(a)))                                            equation 3

    Args:
        config: its settings.
        bias: added to the scores, or ``None``.

    Notes:
        ``2 (D (2 H v_dim + 2 H qk_dim) + H v_dim D)`` flops a token and the attention's; no tensor is padded. A layer's
        output for a token depends on that token, its query time, and the tokens its mask shows, nothing else.

    Source: HSTU (arXiv:2402.17152), equations 1-3.
    """

    def __init__(self, config: HSTULayerConfig, bias: RelativeBias | None = None) -> None:
        super().__init__()
        self.config = config
        self.num_heads, self.qk_dim, self.v_dim = config.num_heads, config.qk_dim, config.v_dim
        inner, epsilon = config.num_heads * config.v_dim, config.epsilon
        if config.norms_by_kind and config.norm == "group":
            raise InvalidValueError("HSTULayer: norm must be 'layer' with norms_by_kind, got 'group'")
        self.input_norm: nn.Module = (
            NormByKind(config.width, epsilon) if config.norms_by_kind else nn.LayerNorm(config.width, eps=epsilon)
        )
        self.uvqk = nn.Linear(config.width, 2 * config.num_heads * (config.qk_dim + config.v_dim))
        self.attention_norm: nn.Module = (
            NormByKind(inner, epsilon)
            if config.norms_by_kind
            else nn.LayerNorm(inner, eps=epsilon)
            if config.norm == "layer"
            else nn.GroupNorm(config.num_heads, inner, eps=epsilon)
        )
        self.out = nn.Linear(inner, config.width)
        self.dropout = Dropout(config.dropout)
        self.bias = bias

    def forward(self, x: Tensor, rows: Packing, layer: int = 0) -> Tensor:
        """``x [E, D]``, end to end -> ``[E, D]``; ``layer``: under which number ``rows.past`` knows this one."""
        gates, q, k, v = self.project(x, rows)
        if rows.past is not None:
            k, v = rows.past.join(layer, k, v)
        return self.gated(x, gates, self.attend(q, k, v, rows), rows)

    def project(self, x: Tensor, rows: Packing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Equation 1: gates ``[E, H v_dim]``, queries and keys ``[E, H, qk_dim]``, values ``[E, H, v_dim]``."""
        c = self.config
        gates, keyed = self.num_heads * self.v_dim, self.num_heads * self.qk_dim
        mixed = self.uvqk(_normed(self.input_norm, x, rows))
        if c.activate == "all":
            mixed = F.silu(mixed)
        u, v, q, k = mixed.split([gates, gates, keyed, keyed], 1)
        if c.activate == "gate":
            u = F.silu(u)
        q, k = (part.reshape(-1, self.num_heads, self.qk_dim) for part in (q, k))
        if c.rotary:
            q, k = rotate(q, rows.positions), rotate(k, rows.positions)
        return u, q, k, v.reshape(-1, self.num_heads, self.v_dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Packing) -> Tensor:
        """Equation 2: ``[E, H, v_dim]``."""
        c = self.config
        rate = c.attention_dropout if self.training else 0.0
        return jagged_attention(
            q,
            k,
            v,
            rows.offsets,
            kind=c.attention,
            max_seq_len=rows.max_seq_len,
            alpha=c.alpha,
            num_targets=rows.num_targets,
            contextual_seq_len=rows.contextual_seq_len,
            max_attn_len=c.max_attn_len,
            bias=None if self.bias is None else self.bias(rows),
            dropout_p=rate,
            seed=int(torch.randint(2**62, ())) if rate else None,  # from torch's generator
            kv_offsets=rows.kv_offsets,
        )

    def gated(self, x: Tensor, gates: Tensor, attended: Tensor, rows: Packing) -> Tensor:
        """Equation 3: ``[E, D]``."""
        inner = gates * _normed(self.attention_norm, attended.reshape(gates.shape), rows)
        out: Tensor = x + self.out(self.dropout(inner))
        return out

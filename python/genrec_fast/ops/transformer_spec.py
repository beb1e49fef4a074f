"""What one stack of transformer layers is, as the native engine runs it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genrec_fast.base.checks import FLOAT32, check_flag, choice, real_number, whole_number
from genrec_fast.base.errors import InvalidValueError

__all__ = ["ACTIVATIONS", "TransformerSpec"]

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")  # by their number in csrc/ops/transformer/transformer.h

_POSITIVE = ("width", "num_layers", "num_heads", "num_kv_heads", "head_width", "ff_width")
MOST_LAYERS, MOST_CHANNELS = 4095, 1 << 28  # as csrc/ops/transformer/transformer_layout.cpp reads them


@dataclass(frozen=True, kw_only=True)
class TransformerSpec:
    """A stack of pre-norm layers: attention, cross-attention where there is an encoder, and a feed-forward part.

    ::

        x += attended(attention(qkv(before_attention(x))))
        x += cross_attended(attention(cross_q(before_cross(x)), cross_kv(encoder rows)))    # with cross_width
        h = before_feed_forward(x)
        x += down(activation(gate(h)) * up(h))      # gated
        x += down(activation(up(h)))                # else
        logits = head(last_norm(x))

    Source: Vaswani et al. (arXiv:1706.03762); pre-norm as in GPT-2; gated forms: Shazeer (arXiv:2002.05202).
    """

    width: int
    """channels of a row (D)"""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """heads of keys and values; each serves num_heads / num_kv_heads heads of queries"""
    head_width: int
    ff_width: int
    head_size: int = 0
    """tokens that the head scores (V); 0: the stack has no head"""
    cross_width: int = 0
    """channels of the encoder's rows; 0: no cross-attention"""
    rotary_width: int = 0
    """channels of each head that positions turn, pairs (c, c + rotary_width / 2); 0: none"""
    window: int = 0
    """keys a query sees at most, the last of them its own; 0: all"""
    activation: str = "relu"
    gated: bool = False
    norm: str = "rms"
    """"rms": root mean square; "layer": mean and variance"""
    qk_norm: bool = False
    """queries and keys of each head pass a root mean square norm before they are turned"""
    causal: bool = True
    epsilon: float = 1e-6
    score_scale: float = 1.0
    """factor of the scores: 1 / sqrt(head_width) but for T5"""

    def __post_init__(self) -> None:
        op = "TransformerSpec"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                most = MOST_LAYERS if field.name == "num_layers" else 2**31 - 1
                number = whole_number(op, field.name, value, 1 if field.name in _POSITIVE else 0, most)
                object.__setattr__(self, field.name, number)
            elif field.type == "bool":
                check_flag(op, field.name, value)
            elif field.type == "float":
                object.__setattr__(self, field.name, real_number(op, field.name, value, FLOAT32))
        if self.epsilon < 0:
            raise InvalidValueError(f"{op}: epsilon must be at least 0, got {self.epsilon}")
        if self.num_heads * self.head_width >= MOST_CHANNELS:
            raise InvalidValueError(
                f"{op}: num_heads * head_width must be below {MOST_CHANNELS}, got {self.num_heads} * {self.head_width}"
            )
        if self.num_heads % self.num_kv_heads:
            raise InvalidValueError(
                f"{op}: num_heads must be a multiple of num_kv_heads, got {self.num_heads} and {self.num_kv_heads}"
            )
        if self.rotary_width % 2 or self.rotary_width > self.head_width:
            raise InvalidValueError(
                f"{op}: rotary_width must be even and at most head_width {self.head_width}, got {self.rotary_width}"
            )
        choice(op, "activation", self.activation, ACTIVATIONS[1:])
        choice(op, "norm", self.norm, ("rms", "layer"))

    @property
    def kept(self) -> int:
        """Floats that a row keeps per layer: its keys and values."""
        return 2 * self.num_kv_heads * self.head_width

    @property
    def mixed(self) -> int:
        """Floats of a row's queries, keys and values."""
        return self.num_heads * self.head_width + self.kept

    def linears(self) -> dict[str, tuple[int, int, bool]]:
        """Name in a layer -> rows, columns, needed, in the order of the packed block."""
        heads, kv = self.num_heads * self.head_width, self.num_kv_heads * self.head_width
        cross = self.cross_width > 0
        return {
            "qkv": (self.mixed, self.width, True),
            "attended": (self.width, heads, True),
            "cross_q": (heads, self.width, cross),
            "cross_kv": (2 * kv, self.cross_width, cross),
            "cross_attended": (self.width, heads, cross),
            "gate": (self.ff_width, self.width, self.gated),
            "up": (self.ff_width, self.width, True),
            "down": (self.width, self.ff_width, True),
        }

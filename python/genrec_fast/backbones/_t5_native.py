"""T5's weights as the native engine runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genrec_fast.nn.native import NativeEngine, packed_once, runs_natively
from genrec_fast.ops._transformer_pack import pack_stacks
from genrec_fast.ops._transformer_spec import TransformerSpec

if TYPE_CHECKING:
    from genrec_fast.backbones.t5 import T5

__all__ = ["native_t5"]


def native_t5(model: T5) -> NativeEngine | None:
    """The engine where it gives what torch's modules give (``runs_natively``)."""
    if not runs_natively(model, model.head.weight):
        return None
    return packed_once(model, "float32", lambda: _pack(model))


def _pack(model: T5) -> Tensor:
    config = model.config
    common: dict[str, Any] = {
        "width": config.width,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_heads,
        "head_width": config.head_width,
        "ff_width": config.hidden,
        "activation": "relu",
        "epsilon": model.encoder_norm.eps,
    }
    stacks = []
    for decodes, layers, norm in (
        (False, model.encoder, model.encoder_norm),
        (True, model.decoder, model.decoder_norm),
    ):
        weights: dict[str, Tensor] = {"last_norm.weight": norm.weight}
        if decodes:
            weights["head.weight"] = model.head.weight
        for number, layer in enumerate(layers):
            parts: Any = layer
            of = {
                "before_attention": parts.norm.weight,
                "qkv": torch.cat([parts.attention.queries.weight, parts.attention.keys_values.weight]),
                "attended": parts.attention.out.weight,
                "before_feed_forward": parts.feed_norm.weight,
                "up": parts.feed_forward.into.weight,
                "down": parts.feed_forward.out.weight,
            }
            if decodes:
                of["before_cross"] = parts.cross_norm.weight
                of["cross_q"] = parts.cross_attention.queries.weight
                of["cross_kv"] = parts.cross_attention.keys_values.weight
                of["cross_attended"] = parts.cross_attention.out.weight
            weights |= {f"layers.{number}.{name}.weight": weight for name, weight in of.items()}
        spec = TransformerSpec(
            causal=decodes,
            cross_width=config.width if decodes else 0,
            head_size=model.head.weight.shape[0] if decodes else 0,
            **common,
        )
        stacks.append((spec, weights))
    tensors = {
        "embedding": model.tokens.weight.detach(),
        "relative_encoder": model.encoder_bias.table.weight.detach(),
        "relative_decoder": model.decoder_bias.table.weight.detach(),
    }
    return pack_stacks(stacks, "float32", tensors, {"max_distance": model.decoder_bias.max_distance})

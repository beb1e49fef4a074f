"""T5's weights as the native engine runs them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.native import native_backbone, runs_natively
from genrec_fast.nn.stack_weights import StackWeights, check_all_read, one_value
from genrec_fast.nn.t5 import Attention, RMSNorm
from genrec_fast.ops.transformer_pack import pack_stacks
from genrec_fast.ops.transformer_spec import TransformerSpec


def native_t5(model: Any, kind: type) -> NativeEngine | None:
    """The engine where it gives what torch's modules give (``runs_natively``); ``kind``: T5 itself."""
    if not runs_natively(model, model.tokens.weight):
        return None
    return native_backbone(model, kind, lambda: _pack(model))


def _pack(model: Any) -> Tensor:
    config = model.config
    attentions = [part for part in model.modules() if isinstance(part, Attention)]
    biases = {False: model.decoder_bias, True: model.encoder_bias}
    for bidirectional, bias in biases.items():
        if bias.bidirectional != bidirectional or bias.num_buckets != bias.table.num_embeddings:
            raise UnsupportedError(
                f"{type(model).__name__}: the native engine counts distances as T5 does, not as here"
            )
    heads = one_value(model, "number of heads", (config.num_heads, *(part.num_heads for part in attentions)))
    common: dict[str, Any] = {
        "width": config.width,
        "num_layers": config.num_layers,
        "num_heads": heads,
        "num_kv_heads": config.num_heads,
        "head_width": config.head_width,
        "ff_width": config.hidden,
        "activation": "relu",
        "epsilon": one_value(model, "epsilon", (norm.eps for norm in model.modules() if isinstance(norm, RMSNorm))),
    }
    stacks, read = [], list[Tensor]()
    for decodes, layers, norm in (
        (False, model.encoder, model.encoder_norm),
        (True, model.decoder, model.decoder_norm),
    ):
        weights = StackWeights(read, "RMSNorm")
        weights.put("last_norm", norm)
        if decodes:
            if model.head is not None:
                weights.table(model.head.weight)  # T5 reads parts of it, and never a bias
            weights["head.weight"] = model.head_weight.detach()
        for number, layer in enumerate(layers):
            parts: Any = layer
            of = {
                "before_attention": (parts.norm,),
                "qkv": (parts.attention.queries, parts.attention.keys_values),
                "attended": (parts.attention.out,),
                "before_feed_forward": (parts.feed_norm,),
                "up": (parts.feed_forward.into,),
                "down": (parts.feed_forward.out,),
            }
            if decodes:
                of["before_cross"] = (parts.cross_norm,)
                of["cross_q"] = (parts.cross_attention.queries,)
                of["cross_kv"] = (parts.cross_attention.keys_values,)
                of["cross_attended"] = (parts.cross_attention.out,)
            for name, modules in of.items():
                weights.put(f"layers.{number}.{name}", *modules)
        spec = TransformerSpec(
            causal=decodes or model.encoder_is_causal,
            cross_width=config.width if decodes else 0,
            head_size=model.level_offsets[-1] if decodes else 0,
            **common,
        )
        stacks.append((spec, weights))
    tensors = {
        "embedding": weights.table(model.tokens.weight),
        "relative_encoder": weights.table(model.encoder_bias.table.weight),
        "relative_decoder": weights.table(model.decoder_bias.table.weight),
    }
    check_all_read(model, read)
    distance = one_value(model, "largest distance", (bias.max_distance for bias in biases.values()))
    return pack_stacks(stacks, "float32", tensors, {"max_distance": distance})

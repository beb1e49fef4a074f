"""Models of transformers as stacks of the native engine: which families, and where their weights stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genrec_fast.errors import UnsupportedError
from genrec_fast.ops._transformer_pack import pack_stacks
from genrec_fast.ops._transformer_spec import TransformerSpec

__all__ = ["FAMILIES", "pack_weights"]

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
# Forms of rotary positions whose angles do not depend on how long the text is.
_STATIC_ROTARY = ("default", "linear", "llama3", "yarn")


class _Model(NamedTuple):
    stacks: list[tuple[TransformerSpec, dict[str, Tensor]]]
    tensors: dict[str, Tensor]
    note: dict[str, Any]


def pack_weights(model: nn.Module, dtype: str | torch.dtype = "float32") -> Tensor:
    """A transformers model as the one flat block that ``NativeEngine`` runs.

    Args:
        model: of one of ``FAMILIES``, with a language model head.
        dtype: "float32", "bfloat16" or "int8" (or torch's dtype of that name): see ``pack_stacks``.

    Returns:
        uint8 ``[bytes]``: save it with safetensors or ``torch.save``, map it into memory; it fits this machine's
        instruction set.

    Raises:
        UnsupportedError: another family, or a setting of it that the engine does not run; the text names it.
        InvalidValueError: an unknown dtype, or weights that are not finite.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise UnsupportedError(f"pack_weights: model must be one of {', '.join(FAMILIES)}, got {kind}")
    with torch.no_grad():
        found = FAMILIES[kind](model)
        name = str(dtype).removeprefix("torch.")
        return pack_stacks(found.stacks, name, found.tensors, {"family": kind, **found.note})


def _need(holds: bool, kind: str, what: str) -> None:
    if not holds:
        raise UnsupportedError(f"pack_weights: {kind} {what} is not run by the native engine")


def _activation(kind: str, name: Any) -> str:
    _need(name in _ACTIVATIONS, kind, f"with activation {name!r}")
    return _ACTIVATIONS[name]


def _put(weights: dict[str, Tensor], name: str, module: Any) -> None:
    weights[f"{name}.weight"] = module.weight
    if getattr(module, "bias", None) is not None:
        weights[f"{name}.bias"] = module.bias


def _put_joined(weights: dict[str, Tensor], name: str, *modules: Any) -> None:
    weights[f"{name}.weight"] = torch.cat([module.weight for module in modules])
    biases = [module.bias for module in modules]
    if any(bias is not None for bias in biases):
        zeros = [module.weight.new_zeros(module.weight.shape[0]) for module in modules]
        weights[f"{name}.bias"] = torch.cat([b if b is not None else z for b, z in zip(biases, zeros, strict=True)])


def _head_scale(model: Any) -> float:
    """The factor between the decoder's last norm and the head: seen in a pass, as versions of T5 and mT5 differ."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.decoder.final_layer_norm.register_forward_hook(lambda _, __, out: seen.update(norm=out)),
        model.lm_head.register_forward_pre_hook(lambda _, args: seen.update(head=args[0])),
    ]
    training = model.training
    model.eval()  # dropout stands between the two
    token = torch.zeros(1, 1, dtype=torch.int64)
    try:
        model(input_ids=token, decoder_input_ids=token)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    largest = seen["norm"].abs().argmax()
    ratio = float(seen["head"].flatten()[largest] / seen["norm"].flatten()[largest])
    root = float(model.config.d_model**-0.5)
    return root if abs(ratio / root - 1) < 0.01 else 1.0


def _t5(model: Any) -> _Model:
    config = model.config
    common: dict[str, Any] = {
        "width": config.d_model,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_heads,
        "head_width": config.d_kv,
        "ff_width": config.d_ff,
        "activation": _activation("T5", config.dense_act_fn),
        "gated": config.is_gated_act,
        "epsilon": config.layer_norm_epsilon,
    }
    stacks = []
    for stack in (model.encoder, model.decoder):
        decoder, weights = stack is model.decoder, {"last_norm.weight": stack.final_layer_norm.weight}
        if decoder:
            weights["head.weight"] = model.lm_head.weight.float() * _head_scale(model)
        for index, block in enumerate(stack.block):
            place, attention = f"layers.{index}", block.layer[0].SelfAttention
            _put(weights, f"{place}.before_attention", block.layer[0].layer_norm)
            _put_joined(weights, f"{place}.qkv", attention.q, attention.k, attention.v)
            _put(weights, f"{place}.attended", attention.o)
            if decoder:
                cross = block.layer[1].EncDecAttention
                _put(weights, f"{place}.before_cross", block.layer[1].layer_norm)
                _put(weights, f"{place}.cross_q", cross.q)
                _put_joined(weights, f"{place}.cross_kv", cross.k, cross.v)
                _put(weights, f"{place}.cross_attended", cross.o)
            inner = block.layer[-1]
            _put(weights, f"{place}.before_feed_forward", inner.layer_norm)
            if config.is_gated_act:
                _put(weights, f"{place}.gate", inner.DenseReluDense.wi_0)
                _put(weights, f"{place}.up", inner.DenseReluDense.wi_1)
            else:
                _put(weights, f"{place}.up", inner.DenseReluDense.wi)
            _put(weights, f"{place}.down", inner.DenseReluDense.wo)
        spec = TransformerSpec(
            num_layers=len(stack.block),
            causal=decoder,
            cross_width=config.d_model if decoder else 0,
            head_size=model.lm_head.weight.shape[0] if decoder else 0,
            **common,
        )
        stacks.append((spec, weights))
    tensors = {"embedding": model.shared.weight}
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        bias = stack.block[0].layer[0].SelfAttention.relative_attention_bias
        tensors[f"relative_{name}"] = bias.weight
    return _Model(stacks, tensors, {"max_distance": config.relative_attention_max_distance})


def _gpt2(model: Any) -> _Model:
    config, body = model.config, model.transformer
    _need(not config.add_cross_attention, "GPT-2", "with cross-attention")
    _need(config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx, "GPT-2", "with other scores")
    head_width = config.n_embd // config.n_head
    spec = TransformerSpec(
        width=config.n_embd,
        num_layers=config.n_layer,
        num_heads=config.n_head,
        num_kv_heads=config.n_head,
        head_width=head_width,
        ff_width=config.n_inner or 4 * config.n_embd,
        head_size=model.lm_head.weight.shape[0],
        activation=_activation("GPT-2", config.activation_function),
        norm="layer",
        epsilon=config.layer_norm_epsilon,
        score_scale=head_width**-0.5,
    )
    weights: dict[str, Tensor] = {}
    _put(weights, "last_norm", body.ln_f)
    _put(weights, "head", model.lm_head)
    for index, block in enumerate(body.h):
        place = f"layers.{index}"
        _put(weights, f"{place}.before_attention", block.ln_1)
        _put(weights, f"{place}.before_feed_forward", block.ln_2)
        parts = (("qkv", block.attn.c_attn), ("attended", block.attn.c_proj))
        for name, module in (*parts, ("up", block.mlp.c_fc), ("down", block.mlp.c_proj)):
            weights[f"{place}.{name}.weight"] = module.weight.T  # Conv1D keeps [in, out]
            weights[f"{place}.{name}.bias"] = module.bias
    tensors = {"embedding": body.wte.weight, "positions": body.wpe.weight}
    return _Model([(spec, weights)], tensors, {})


def _llama(model: Any) -> _Model:
    """Llama and those that differ by a setting: Mistral, Qwen2, Qwen3, Gemma."""
    config, body = model.config, model.model
    kind = config.model_type
    layers = body.layers
    first = layers[0].self_attn
    windows = {getattr(layer.self_attn, "sliding_window", None) for layer in layers}
    if kind == "mistral":
        windows = {config.sliding_window}
    _need(len(windows) == 1, kind, "with a window in some layers only")
    rotary = body.rotary_emb
    form = getattr(rotary, "rope_type", "default")
    _need(form in _STATIC_ROTARY, kind, f"with rotary positions of the form {form!r}")
    head_width = first.head_dim
    gemma = kind == "gemma"
    spec = TransformerSpec(
        width=config.hidden_size,
        num_layers=len(layers),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_width=head_width,
        ff_width=config.intermediate_size,
        head_size=model.lm_head.weight.shape[0],
        rotary_width=2 * rotary.inv_freq.numel(),
        window=windows.pop() or 0,
        activation=_activation(kind, getattr(config, "hidden_activation", None) or config.hidden_act),
        gated=True,
        qk_norm=hasattr(first, "q_norm"),
        epsilon=config.rms_norm_eps,
        score_scale=first.scaling,
    )
    weights: dict[str, Tensor] = {}

    def norm(name: str, module: Any) -> None:
        weights[f"{name}.weight"] = module.weight.float() + (1.0 if gemma else 0.0)

    norm("last_norm", body.norm)
    _put(weights, "head", model.lm_head)
    for index, layer in enumerate(layers):
        place, attention = f"layers.{index}", layer.self_attn
        norm(f"{place}.before_attention", layer.input_layernorm)
        norm(f"{place}.before_feed_forward", layer.post_attention_layernorm)
        _put_joined(weights, f"{place}.qkv", attention.q_proj, attention.k_proj, attention.v_proj)
        _put(weights, f"{place}.attended", attention.o_proj)
        if spec.qk_norm:
            norm(f"{place}.q_norm", attention.q_norm)
            norm(f"{place}.k_norm", attention.k_norm)
        _put(weights, f"{place}.gate", layer.mlp.gate_proj)
        _put(weights, f"{place}.up", layer.mlp.up_proj)
        _put(weights, f"{place}.down", layer.mlp.down_proj)
    note = {"attention_scaling": float(rotary.attention_scaling)}
    if gemma:
        note["embedding_scale"] = float(torch.tensor(config.hidden_size**0.5, dtype=body.embed_tokens.weight.dtype))
    tensors = {"embedding": body.embed_tokens.weight, "inverse_frequencies": rotary.inv_freq.float()}
    return _Model([(spec, weights)], tensors, note)


FAMILIES: dict[str, Callable[[Any], _Model]] = {
    "t5": _t5,
    "mt5": _t5,
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gemma": _llama,
}

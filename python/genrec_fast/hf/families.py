"""Models of transformers as stacks of the native engine: which families, and where their weights stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.hf.agreement import disagreement
from genrec_fast.hf.likeness import evaluating
from genrec_fast.hf.stock import check_stock
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.stack_weights import StackWeights, check_all_read, one_value
from genrec_fast.ops.transformer_pack import pack_stacks
from genrec_fast.ops.transformer_spec import TransformerSpec

_ACTIVATIONS = {  # by class and, of torch's GELU, its form
    "ReLU": "relu",
    "GELUActivation": "gelu",
    "GELUnone": "gelu",
    "GELUtanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}
# Forms of rotary positions whose angles do not depend on how long the text is.
_STATIC_ROTARY = ("default", "linear", "llama3", "yarn")


class Described(NamedTuple):
    """A model as stacks of layers."""

    stacks: list[tuple[TransformerSpec, StackWeights]]
    tensors: dict[str, Tensor]
    note: dict[str, Any]
    read: list[Tensor]
    """the parameters that are in it"""


def pack_weights(model: nn.Module, dtype: str | torch.dtype = "float32") -> Tensor:
    """A transformers model as the one flat block that ``NativeEngine`` runs.

    Args:
        model: of one of ``FAMILIES``, with a language model head, and nothing but transformers' own code in it.
        dtype: "float32", "bfloat16" or "int8" (or torch's dtype of that name): see ``pack_stacks``.

    Returns:
        uint8 ``[bytes]``: save it with safetensors or ``torch.save``, map it into memory; it fits this machine's
        instruction set.

    Raises:
        UnsupportedError: another family, a setting of it that the engine does not run, or a model that is more than
            its family and weights (hooks, adapters, replaced methods, quantized layers); the text names it. A model
            whose logits behind one short text are not those of the packed form is refused, too.
        InvalidValueError: an unknown dtype, or weights that are not finite.
    """
    check_stock(model, tuple(FAMILIES))
    block = pack_unchecked(model, dtype)
    reason = disagreement(model, NativeEngine(block), str(dtype).removeprefix("torch."))
    if reason is not None:
        raise not_the_model(model, reason)
    return block


def not_the_model(model: nn.Module, reason: str) -> UnsupportedError:
    """The error for a packed form that ``disagreement`` has something to say about."""
    return UnsupportedError(
        f"pack_weights: {type(model).__name__} is more than its family and weights: packed, it {reason}"
    )


def pack_unchecked(model: nn.Module, dtype: str | torch.dtype) -> Tensor:
    """``pack_weights`` of a stock model, without a comparison of what both forms say."""
    found, name = described(model), str(dtype).removeprefix("torch.")
    with torch.no_grad():
        return pack_stacks(found.stacks, name, found.tensors, found.note)


@torch.no_grad()
def described(model: Any) -> Described:
    """A stock model's stacks, their weights where these are, and what belongs to them.

    Raises:
        UnsupportedError: a part or setting that is not the family's, or a parameter that no stack reads.
    """
    kind = str(model.config.model_type)
    try:
        found = FAMILIES[kind](model)
    except AttributeError as error:  # a part that is another one than the family's
        raise UnsupportedError(
            f"pack_weights: model must be built as transformers builds a {kind}, but {error}"
        ) from error
    check_all_read(model, found.read)
    return found._replace(note={"family": kind, **found.note})


def _need(holds: bool, kind: str, what: str) -> None:
    if not holds:
        raise UnsupportedError(f"pack_weights: {kind} {what} is not run by the native engine")


def _need_layers_to_see(window: int | None, config: Any) -> None:
    """A window that only the config has is the cache's: a text read by steps would not be the one read whole."""
    types, widest = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    if types is None:
        kept = {chunk if widest is None else widest}
    else:
        kept = {widest if "sliding" in kind else chunk for kind in types if kind.startswith(("sliding", "chunked"))}
    odd = kept - {None, window}
    _need(not odd, config.model_type, f"with a window of {odd} in its config, through which its layers do not look,")


def _activation(kind: str, modules: Iterator[nn.Module]) -> str:
    """The engine's name of the activation that all layers apply; the config may have been changed since."""
    found = {type(module).__name__ + str(getattr(module, "approximate", "")) for module in modules}
    _need(len(found) == 1 and found <= set(_ACTIVATIONS), kind, f"with activation {', '.join(sorted(found))}")
    return _ACTIVATIONS[found.pop()]


def _head_scale(model: Any) -> float:
    """The factor between the decoder's last norm and the head: seen in a pass, as versions of T5 and mT5 differ."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.decoder.final_layer_norm.register_forward_hook(lambda _, __, out: seen.update(norm=out)),
        model.lm_head.register_forward_pre_hook(lambda _, args: seen.update(head=args[0])),
    ]
    token = torch.zeros(1, 1, dtype=torch.int64)
    try:
        with evaluating(model):  # it stands between the two
            model(input_ids=token, decoder_input_ids=token)
    finally:
        for hook in hooks:
            hook.remove()
    largest = seen["norm"].abs().argmax()
    ratio = float(seen["head"].flatten()[largest] / seen["norm"].flatten()[largest])
    root = float(model.config.d_model**-0.5)
    return root if abs(ratio / root - 1) < 0.01 else 1.0


def _t5(model: Any) -> Described:
    config = model.config
    _need_layers_to_see(None, config)
    stacks_of = (model.encoder, model.decoder)
    inner = [block.layer[-1].DenseReluDense for stack in stacks_of for block in stack.block]
    gated = one_value(model, "form of feed-forward", (hasattr(part, "wi_0") for part in inner))
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    common: dict[str, Any] = {
        "width": config.d_model,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_heads,
        "head_width": config.d_kv,
        "ff_width": config.d_ff,
        "activation": _activation("T5", (part.act for part in inner)),
        "gated": gated,
        "epsilon": one_value(model, "epsilon", (norm.variance_epsilon for norm in norms)),
        "score_scale": one_value(model, "scale of scores", _t5_scales(model)),
    }
    stacks, read = [], list[Tensor]()
    for stack in stacks_of:
        decoder, weights = stack is model.decoder, StackWeights(read, "T5LayerNorm")
        weights.put("last_norm", stack.final_layer_norm)
        if decoder:
            weights.put("head", model.lm_head, scale=_head_scale(model))
        for index, block in enumerate(stack.block):
            place, attention = f"layers.{index}", block.layer[0].SelfAttention
            weights.put(f"{place}.before_attention", block.layer[0].layer_norm)
            weights.put(f"{place}.qkv", attention.q, attention.k, attention.v)
            weights.put(f"{place}.attended", attention.o)
            if decoder:
                cross = block.layer[1].EncDecAttention
                weights.put(f"{place}.before_cross", block.layer[1].layer_norm)
                weights.put(f"{place}.cross_q", cross.q)
                weights.put(f"{place}.cross_kv", cross.k, cross.v)
                weights.put(f"{place}.cross_attended", cross.o)
            last = block.layer[-1]
            weights.put(f"{place}.before_feed_forward", last.layer_norm)
            if gated:
                weights.put(f"{place}.gate", last.DenseReluDense.wi_0)
                weights.put(f"{place}.up", last.DenseReluDense.wi_1)
            else:
                weights.put(f"{place}.up", last.DenseReluDense.wi)
            weights.put(f"{place}.down", last.DenseReluDense.wo)
        spec = TransformerSpec(
            num_layers=len(stack.block),
            causal=decoder,
            cross_width=config.d_model if decoder else 0,
            head_size=model.lm_head.weight.shape[0] if decoder else 0,
            **common,
        )
        stacks.append((spec, weights))
    # One embedding serves both stacks; where someone has parted them, one of the two is left unread and named.
    tensors = {"embedding": weights.table(model.decoder.embed_tokens.weight)}
    biased = [stack.block[0].layer[0].SelfAttention for stack in stacks_of]
    for name, attention in zip(("encoder", "decoder"), biased, strict=True):
        tensors[f"relative_{name}"] = weights.table(attention.relative_attention_bias.weight)
    distance = one_value(model, "largest distance", (part.relative_attention_max_distance for part in biased))
    return Described(stacks, tensors, {"max_distance": distance}, read)


def _t5_scales(model: Any) -> Iterator[float]:
    """Versions of transformers before 5 have no such attribute, and do not scale."""
    for module in model.modules():
        if hasattr(module, "relative_attention_num_buckets"):
            yield float(getattr(module, "scaling", 1.0))


def _gpt2(model: Any) -> Described:
    config, body = model.config, model.transformer
    _need_layers_to_see(None, config)
    _need(not config.add_cross_attention, "GPT-2", "with cross-attention")
    _need(config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx, "GPT-2", "with other scores")
    head_width = config.n_embd // config.n_head
    norms = [body.ln_f, *(norm for block in body.h for norm in (block.ln_1, block.ln_2))]
    spec = TransformerSpec(
        width=config.n_embd,
        num_layers=len(body.h),
        num_heads=config.n_head,
        num_kv_heads=config.n_head,
        head_width=head_width,
        ff_width=config.n_inner or 4 * config.n_embd,
        head_size=model.lm_head.weight.shape[0],
        activation=_activation("GPT-2", (block.mlp.act for block in body.h)),
        norm="layer",
        epsilon=one_value(model, "epsilon", (norm.eps for norm in norms)),
        score_scale=head_width**-0.5,
    )
    read: list[Tensor] = []
    weights = StackWeights(read, "LayerNorm")
    weights.put("last_norm", body.ln_f)
    weights.put("head", model.lm_head)
    for index, block in enumerate(body.h):
        place = f"layers.{index}"
        weights.put(f"{place}.before_attention", block.ln_1)
        weights.put(f"{place}.before_feed_forward", block.ln_2)
        parts = (("qkv", block.attn.c_attn), ("attended", block.attn.c_proj))
        for name, module in (*parts, ("up", block.mlp.c_fc), ("down", block.mlp.c_proj)):
            weights.put_transposed(f"{place}.{name}", module)  # Conv1D keeps [in, out]
    tensors = {"embedding": weights.table(body.wte.weight), "positions": weights.table(body.wpe.weight)}
    return Described([(spec, weights)], tensors, {}, read)


def _llama(model: Any) -> Described:
    """Llama and those that differ by a setting: Mistral, Qwen2, Qwen3, Gemma."""
    config, body = model.config, model.model
    kind = config.model_type
    layers = body.layers
    attentions = [layer.self_attn for layer in layers]
    windows = [config.sliding_window if kind == "mistral" else getattr(a, "sliding_window", None) for a in attentions]
    window = one_value(model, "window", windows)
    _need_layers_to_see(window, config)
    rotary = body.rotary_emb
    form = getattr(rotary, "rope_type", "default")
    _need(form in _STATIC_ROTARY, kind, f"with rotary positions of the form {form!r}")
    gemma = kind == "gemma"
    shift = 1.0 if gemma else 0.0  # Gemma's norms multiply by 1 + weight
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    head_width = one_value(model, "width of a head", (part.head_dim for part in attentions))
    epsilons = (norm.eps if hasattr(norm, "eps") else norm.variance_epsilon for norm in norms)
    spec = TransformerSpec(
        width=body.embed_tokens.weight.shape[1],  # sizes are those of the weights: a config may be changed afterwards
        num_layers=len(layers),
        num_heads=layers[0].self_attn.q_proj.weight.shape[0] // head_width,
        num_kv_heads=layers[0].self_attn.k_proj.weight.shape[0] // head_width,
        head_width=head_width,
        ff_width=layers[0].mlp.gate_proj.weight.shape[0],
        head_size=model.lm_head.weight.shape[0],
        rotary_width=2 * rotary.inv_freq.numel(),
        window=window or 0,
        activation=_activation(kind, (layer.mlp.act_fn for layer in layers)),
        gated=True,
        qk_norm=one_value(model, "form of attention", (hasattr(part, "q_norm") for part in attentions)),
        epsilon=one_value(model, "epsilon", epsilons),
        score_scale=one_value(model, "scale of scores", (part.scaling for part in attentions)),
    )
    read: list[Tensor] = []
    weights = StackWeights(read, "RMSNorm")
    weights.put("last_norm", body.norm, shift=shift)
    weights.put("head", model.lm_head)
    for index, layer in enumerate(layers):
        place, attention = f"layers.{index}", layer.self_attn
        weights.put(f"{place}.before_attention", layer.input_layernorm, shift=shift)
        weights.put(f"{place}.before_feed_forward", layer.post_attention_layernorm, shift=shift)
        weights.put(f"{place}.qkv", attention.q_proj, attention.k_proj, attention.v_proj)
        weights.put(f"{place}.attended", attention.o_proj)
        if spec.qk_norm:
            weights.put(f"{place}.q_norm", attention.q_norm, shift=shift)
            weights.put(f"{place}.k_norm", attention.k_norm, shift=shift)
        weights.put(f"{place}.gate", layer.mlp.gate_proj)
        weights.put(f"{place}.up", layer.mlp.up_proj)
        weights.put(f"{place}.down", layer.mlp.down_proj)
    note = {"attention_scaling": float(rotary.attention_scaling)}
    embedding = weights.table(body.embed_tokens.weight)
    if gemma:
        note["embedding_scale"] = float(torch.tensor(config.hidden_size**0.5, dtype=embedding.dtype))
    tensors = {"embedding": embedding, "inverse_frequencies": rotary.inv_freq.float()}
    return Described([(spec, weights)], tensors, note, read)


FAMILIES: dict[str, Callable[[Any], Described]] = {
    "t5": _t5,
    "mt5": _t5,
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gemma": _llama,
}
DECODERS = tuple(name for name, describe in FAMILIES.items() if describe is not _t5)
"""those without an encoder"""

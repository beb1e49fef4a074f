"""Model types of transformers as tiny random models: which class, which settings. ``test_families`` runs them all."""

from __future__ import annotations

import logging
import warnings
from typing import Any, NamedTuple

import torch

logging.getLogger("transformers").setLevel(logging.ERROR)

VOCAB = 96
PAD, END = 0, 1
_SPECIAL = {"vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": END}
# The names that most decoders share; a few add a size of their own.
_DECODER: dict[str, Any] = {
    **_SPECIAL,
    "bos_token_id": None,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
_ONE_HEAD_EACH = {**_DECODER, "num_key_value_heads": 4}
_OLD_NAMES: dict[str, Any] = {**_SPECIAL, "bos_token_id": None, "hidden_size": 32, "n_layer": 2, "n_head": 4}
_GPT: dict[str, Any] = {**_SPECIAL, "bos_token_id": None, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_T5: dict[str, Any] = {
    **_SPECIAL,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
_BART: dict[str, Any] = {
    **_SPECIAL,
    "bos_token_id": 2,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "max_position_embeddings": 128,
}
_MAMBA2: dict[str, Any] = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 16, "chunk_size": 4}
_EXPERTS: dict[str, Any] = {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LATENT: dict[str, Any] = {  # multi-head latent attention
    **_ONE_HEAD_EACH,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}


class ModelType(NamedTuple):
    """How a tiny model is made, and how far from flat.

    Args:
        model: the class with a language model head.
        config: its config's class, made with ``settings``.
        settings: small ones, far from flat.
        factor: enlarges random weights, so that scores differ and positions count.
    """

    model: str
    config: str
    settings: dict[str, Any]
    factor: float = 8.0


def _causal(name: str, settings: dict[str, Any], head: str = "ForCausalLM", **more: Any) -> ModelType:
    return ModelType(name + head, f"{name}Config", settings, **more)


def _encoder_decoder(name: str, settings: dict[str, Any], **more: Any) -> ModelType:
    return ModelType(f"{name}ForConditionalGeneration", f"{name}Config", settings, **more)


MODEL_TYPES: dict[str, ModelType] = {
    # Encoder-decoders.
    "t5": _encoder_decoder("T5", _T5, factor=3.0),
    "t5 (gated)": _encoder_decoder(
        "T5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, factor=3.0
    ),
    "mt5": _encoder_decoder("MT5", _T5, factor=3.0),
    "umt5": _encoder_decoder("UMT5", _T5, factor=3.0),
    "switch_transformers": _encoder_decoder(
        "SwitchTransformers",
        {**_T5, "num_decoder_layers": 2, "num_experts": 4, "expert_capacity": 64, "num_sparse_encoder_layers": 1},
        factor=3.0,
    ),
    "longt5": _encoder_decoder("LongT5", {**_T5, "local_radius": 4}, factor=3.0),
    "longt5 (global)": _encoder_decoder(
        "LongT5",
        {**_T5, "local_radius": 4, "encoder_attention_type": "transient-global", "global_block_size": 4},
        factor=3.0,
    ),
    "bart": _encoder_decoder("Bart", _BART),
    "mbart": _encoder_decoder("MBart", _BART),
    "pegasus": _encoder_decoder("Pegasus", _BART),
    "pegasus_x": _encoder_decoder("PegasusX", {**_BART, "block_size": 4, "num_global_tokens": 4}),
    "blenderbot": _encoder_decoder("Blenderbot", _BART),
    "marian": ModelType("MarianMTModel", "MarianConfig", {**_BART, "decoder_vocab_size": VOCAB}),
    "m2m_100": _encoder_decoder("M2M100", _BART),
    "nllb-moe": _encoder_decoder("NllbMoe", {**_BART, "num_experts": 4, "expert_capacity": 64}),
    "led": _encoder_decoder(
        "LED",
        {**_BART, "attention_window": 4, "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 64},
    ),
    "bigbird_pegasus": _encoder_decoder(
        "BigBirdPegasus", {**_BART, "attention_type": "original_full", "block_size": 4, "num_random_blocks": 1}
    ),
    "prophetnet": _encoder_decoder(
        "ProphetNet",
        {
            **_SPECIAL,
            "bos_token_id": 2,
            "hidden_size": 32,
            "encoder_ffn_dim": 48,
            "num_encoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "decoder_ffn_dim": 48,
            "num_decoder_layers": 2,
            "num_decoder_attention_heads": 4,
            "ngram": 2,
            "num_buckets": 8,
            "relative_max_distance": 16,
            "decoder_start_token_id": 2,
        },
    ),
    "fsmt": _encoder_decoder("FSMT", {**_BART, "langs": ["a", "b"], "src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}),
    # Decoders with keys and values.
    "gpt2": _causal("GPT2", _GPT, "LMHeadModel"),
    "gpt_neo": _causal(
        "GPTNeo",
        {
            **_SPECIAL,
            "bos_token_id": None,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": _causal("GPTNeoX", _DECODER),
    "gptj": _causal("GPTJ", {**_GPT, "rotary_dim": 4}),
    "codegen": _causal("CodeGen", {**_GPT, "rotary_dim": 4}),
    "openai-gpt": _causal("OpenAIGPT", _GPT, "LMHeadModel"),
    "ctrl": _causal("CTRL", {**_GPT, "dff": 48}, "LMHeadModel"),
    "opt": _causal("OPT", {**_DECODER, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "xglm": _causal(
        "XGLM",
        {
            **_SPECIAL,
            "bos_token_id": None,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "decoder_start_token_id": 2,
        },
    ),
    "bloom": _causal("Bloom", _OLD_NAMES),
    "falcon": _causal("Falcon", {**_DECODER, "new_decoder_architecture": False, "multi_query": True}),
    "falcon (alibi)": _causal("Falcon", {**_DECODER, "alibi": True}),
    "mpt": _causal(
        "Mpt", {**_SPECIAL, "bos_token_id": None, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
    ),
    "llama": _causal("Llama", _DECODER),
    "mistral": _causal("Mistral", {**_DECODER, "sliding_window": 6}),
    "mixtral": _causal("Mixtral", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": _causal("Qwen2", _DECODER),
    "qwen2 (windows)": _causal(
        "Qwen2", {**_DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    ),
    "qwen2_moe": _causal("Qwen2Moe", {**_EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3": _causal("Qwen3", {**_DECODER, "head_dim": 8}),
    "qwen3_moe": _causal("Qwen3Moe", {**_EXPERTS, "head_dim": 8}),
    "gemma": _causal("Gemma", {**_DECODER, "head_dim": 8}),
    "gemma2": _causal("Gemma2", {**_DECODER, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma3_text": _causal(
        "Gemma3",
        {
            **_DECODER,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    )._replace(config="Gemma3TextConfig"),
    "phi": _causal("Phi", _DECODER),
    "phi3": _causal("Phi3", _DECODER),
    "phimoe": _causal("Phimoe", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "stablelm": _causal("StableLm", _DECODER),
    "starcoder2": _causal("Starcoder2", _DECODER),
    "cohere": _causal("Cohere", _DECODER),
    "cohere2": _causal(
        "Cohere2", {**_DECODER, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "olmo": _causal("Olmo", _DECODER),
    "olmo2": _causal("Olmo2", _DECODER),
    "olmo3": _causal(
        "Olmo3", {**_DECODER, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "olmoe": _causal("Olmoe", _EXPERTS),
    "granite": _causal("Granite", {**_DECODER, "embedding_multiplier": 2.0, "logits_scaling": 2.0}),
    "granitemoe": _causal("GraniteMoe", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "smollm3": _causal("SmolLM3", {**_DECODER, "no_rope_layers": [1, 0]}),
    "nemotron": _causal("Nemotron", _DECODER),
    "glm": _causal("Glm", {**_DECODER, "head_dim": 8}),
    "glm4": _causal("Glm4", {**_DECODER, "head_dim": 8}),
    "helium": _causal("Helium", {**_DECODER, "head_dim": 8}),
    "exaone4": _causal(
        "Exaone4", {**_DECODER, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    "deepseek_v2": _causal("DeepseekV2", {**_LATENT, "head_dim": 8}),
    "deepseek_v3": _causal("DeepseekV3", _LATENT),
    "gpt_oss": _causal(
        "GptOss",
        {
            **_DECODER,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    # Decoders whose state is not keys and values alone.
    "mamba": _causal("Mamba", {**_SPECIAL, "hidden_size": 32, "num_hidden_layers": 2}),
    "mamba2": _causal("Mamba2", {**_SPECIAL, "hidden_size": 32, "num_hidden_layers": 2, **_MAMBA2}),
    "falcon_mamba": _causal("FalconMamba", {**_SPECIAL, "hidden_size": 32, "num_hidden_layers": 2}),
    "jamba": _causal(
        "Jamba",
        {
            **_DECODER,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "falcon_h1": _causal(
        "FalconH1",
        {
            **_DECODER,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
        },
    ),
    "lfm2": _causal("Lfm2", {**_DECODER, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "qwen3_next": _causal(
        "Qwen3Next",
        {
            **_EXPERTS,
            "head_dim": 8,
            "shared_expert_intermediate_size": 24,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "minimax": _causal(
        "MiniMax",
        {
            **_DECODER,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "block_size": 4,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "recurrent_gemma": _causal(
        "RecurrentGemma",
        {**_DECODER, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8, "conv1d_width": 4},
    ),
    "rwkv": _causal(
        "Rwkv",
        {**_SPECIAL, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48},
    ),
    "xlstm": _causal(
        "xLSTM", {**_SPECIAL, "hidden_size": 32, "embedding_dim": 32, "num_hidden_layers": 2, "num_heads": 2}
    ),
    # Models that read a text whole.
    "xlnet": _causal("XLNet", {**_SPECIAL, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, "LMHeadModel"),
    "xlm": _causal(
        "XLM",
        {**_SPECIAL, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "causal": True, "pad_index": 0, "eos_index": 1},
        "WithLMHeadModel",
    ),
    "reformer": _causal(
        "Reformer",
        {
            **_SPECIAL,
            "hidden_size": 32,
            "feed_forward_size": 48,
            "num_attention_heads": 4,
            "attention_head_size": 8,
            "attn_layers": ["local", "local"],
            "local_attn_chunk_length": 4,
            "axial_pos_embds": False,
            "max_position_embeddings": 64,
            "is_decoder": True,
        },
        "ModelWithLMHead",
    ),
    "bert": _causal("Bert", {**_DECODER, "is_decoder": True}, "LMHeadModel"),
    "bert (encoder)": _causal("Bert", _DECODER, "LMHeadModel"),
    "roberta": _causal("Roberta", {**_DECODER, "is_decoder": True, "max_position_embeddings": 64}),
    "electra": _causal("Electra", {**_DECODER, "embedding_size": 32, "is_decoder": True}),
    "roformer": _causal("RoFormer", {**_DECODER, "is_decoder": True, "embedding_size": 32}),
}

# What becomes of each with the newest transformers: "steps" over its own cache by torch but for these.
VERDICTS: dict[str, str] = {
    **dict.fromkeys(("t5", "t5 (gated)", "mt5", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma"), "native"),
    **dict.fromkeys(
        (
            "bert (encoder)",
            "minimax",
            "openai-gpt",
            "prophetnet",
            "roberta",
            "rwkv",
            "xlstm",
        ),
        "whole texts",
    ),
    **dict.fromkeys(("fsmt", "recurrent_gemma", "reformer", "xlm", "xlnet"), "refused"),
}
# Hugging Face's beams differ from what the model says of whole texts, or are refused there.
THEIRS_DIFFER = ("bert (encoder)", "minimax", "prophetnet", "roberta", "rwkv", "xlstm")


def make(name: str, seed: int = 0, **settings: Any) -> Any:
    """A random model in evaluation mode, other ``settings`` in its config's place; ``None`` where there is no such."""
    import transformers

    kind = MODEL_TYPES[name]
    if not hasattr(transformers, kind.model) or not hasattr(transformers, kind.config):
        return None
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, kind.model)(getattr(transformers, kind.config)(**kind.settings | settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(kind.factor)
    return model

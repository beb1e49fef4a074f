"""Tiny random models of every family, and what Hugging Face itself answers."""

from __future__ import annotations

import logging

import torch

logging.getLogger("transformers").setLevel(logging.ERROR)

VOCAB = 61
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_T5 = {
    "vocab_size": VOCAB,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
_ROPE = {"rope_theta": 100.0, "original_max_position_embeddings": 16}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 96}
SETTINGS = {
    "t5": ("T5", _T5),
    "flan-t5": ("T5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", _T5),
    "gpt2": ("GPT2", {**_GPT2, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}),
    "llama": ("Llama", _COMMON),
    "llama3": (
        "Llama",
        {
            **_COMMON,
            "rope_parameters": {
                **_ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        },
    ),
    "yarn": ("Llama", {**_COMMON, "rope_parameters": {**_ROPE, "rope_type": "yarn", "factor": 4.0}}),
    "linear": ("Llama", {**_COMMON, "rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}}),
    "mistral": ("Mistral", {**_COMMON, "sliding_window": 6}),
    "qwen2": ("Qwen2", _COMMON),
    "qwen3": ("Qwen3", {**_COMMON, "head_dim": 10}),
    "gemma": ("Gemma", {**_COMMON, "head_dim": 8, "num_key_value_heads": 1}),
}
FAMILIES = tuple(SETTINGS)


def make_model(name: str, seed: int = 0):
    """A random model in evaluation mode whose logits are far from flat."""
    import transformers

    kind, settings = SETTINGS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**settings)
    head = "LMHeadModel" if kind == "GPT2" else "ForConditionalGeneration" if "T5" in kind else "ForCausalLM"
    model = getattr(transformers, kind + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            elif "T5" not in kind:
                parameter *= 4
    return model


def make_inputs(model, lengths, seed=0):
    """Ragged prompts, padded as each kind of model wants them: input_ids and attention_mask."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    tokens = torch.zeros(len(lengths), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        place = slice(0, length) if model.config.is_encoder_decoder else slice(longest - length, longest)
        tokens[row, place] = torch.randint(2, VOCAB, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": tokens.to(model.device), "attention_mask": mask.to(model.device)}


def prefix_function(item_codes, tables, end, begin):
    """What a user of Hugging Face writes: the tokens that may follow, by a dict over prefixes."""
    children = {}
    for codes in item_codes.tolist():
        tokens = [int(tables[level][code]) for level, code in enumerate(codes)]
        for level, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:level]), set()).add(token)
        children[tuple(tokens)] = {end} if end is not None else {0}

    def allowed(_, ids):
        # A beam that generate keeps alive although nothing was left for it gets something to write.
        return sorted(children.get(tuple(ids[begin:].tolist()), {0}))

    return allowed


def generate(model, inputs, num_beams, k, length, end, **options):
    """``model.generate`` with the settings that both sides share."""
    return model.generate(
        **inputs,
        num_beams=num_beams,
        num_return_sequences=k,
        max_new_tokens=length + (end is not None),
        eos_token_id=end,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )

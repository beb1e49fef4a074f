"""Models of transformers: arguments of ``hf.compile``, ``recommend`` and ``trie_beam_search``, with tiny models."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

import genrec_fast as gf
from genrec_fast.catalog.trie import Trie, build_trie

from ..case import Case, Rng, target
from ..compare import differs

VOCABULARY = 61
SIZES = (8, 8)
CODES = torch.stack([torch.arange(40) // 6 % 8, (torch.arange(40) * 5) % 8], 1)


def warm() -> None:
    """What takes seconds is made before the process forks."""
    for name in ("t5", "qwen2"):
        model(name)


@functools.cache
def model(name: str) -> Any:
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    if name == "t5":
        sizes = {"vocab_size": VOCABULARY, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 3}
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "eos_token_id": 1, "bos_token_id": 1}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, **heads)).eval()


@functools.cache
def trie() -> Trie:
    return build_trie(CODES, codebook_sizes=SIZES)


@functools.cache
def compiled(name: str, engine: str) -> Any:
    return gf.hf.compile(model(name), trie(), token_offset=2, engine=engine)


@target("hf.compile", gentle=True, share=0.02, calls=32)
def compile_arguments(rng: Rng) -> Case:
    """Arguments alone: what is made answers one question."""
    made = model(rng.choice(("t5", "qwen2")))
    args: dict[str, Any] = {"token_offset": 2, "code_to_token": None, "engine": rng.choice(("auto", "native", "torch"))}
    args |= {
        "dtype": None,
        "normalize": rng.choice(("all", "valid")),
        "prefix_tokens": (),
        "reads": rng.choice(("tokens", "items")),
    }

    def call(**given: Any) -> Any:
        found = gf.hf.compile(made, trie(), **given)
        answer = found.recommend([[3, 4, 5]], k=2)
        return tuple(answer.items.shape)

    return Case(call, args, lambda **given: (1, 2))


@target("hf.compile.recommend", gentle=True, share=0.04, calls=32)
def recommend(rng: Rng) -> Case:
    """The native engine against torch's."""
    name = rng.choice(("t5", "qwen2"))
    prompts = [rng.whole(2, VOCABULARY, rng.randint(1, 6)).tolist() for _ in range(rng.randint(1, 3))]
    args: dict[str, Any] = {"prompts": prompts, "k": rng.choice((1, 4)), "num_beams": rng.choice((5, 20))}
    if rng.flip(0.3):
        args["allowed"] = rng.mask(40)

    def ask(engine: str) -> Any:
        def call(prompts: Any, **given: Any) -> Tensor:
            found: Tensor = compiled(name, engine).recommend(prompts, **given).scores
            return found

        return call

    return Case(ask("native"), args, ask("torch"), lambda found, right, given: differs(found, right, 1e-3))


@target("hf.trie_beam_search", gentle=True, share=0.02, calls=32)
def beam_search(rng: Rng) -> Case:
    made = model(rng.choice(("t5", "qwen2")))
    args: dict[str, Any] = {
        "token_offset": 2,
        "engine": rng.choice(("auto", "native", "torch")),
        "normalize": "all",
        "items_per_sequence": 1,
    }

    def call(**given: Any) -> Any:
        search = gf.hf.trie_beam_search(trie(), **given)
        ids = torch.tensor([[3, 4, 5]])
        beams = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 2, "do_sample": False}
        out = made.generate(input_ids=ids, attention_mask=torch.ones_like(ids), custom_generate=search, **beams)
        return out.shape[0]

    return Case(call, args, lambda **given: 2)

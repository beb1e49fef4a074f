"""A prompt beyond a model's table of positions is refused by name, and one that just fits is not."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.hf.places import Places
from integrations import model_types
from integrations.models import make_model

CODES = torch.stack([torch.arange(12) // 6, torch.arange(12) % 6 // 3, torch.arange(12) % 3], 1)
TRIE = gf.build_trie(CODES)


def prompt(length: int) -> list[int]:
    return torch.randint(3, 20, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_on_either_engine_and_every_road(engine):
    model = make_model("gpt2")  # of 96 positions
    compiled = gf.hf.compile(model, TRIE, 10, engine=engine)
    fits, beyond = [prompt(3), prompt(94)], [prompt(3), prompt(95)]
    text = "user 1 has 95 tokens and 2 of the answer's 3 are 97 to be read, which is 1 too many"
    assert compiled.recommend(fits, 3).items.shape == (2, 3)
    with pytest.raises(InvalidValueError, match=f"^recommend: prompts must fit the model's 96 positions, but {text}"):
        compiled.recommend(beyond, 3)
    with compiled.batcher() as batcher, pytest.raises(InvalidValueError, match="user 0 has 95 tokens"):
        batcher.recommend(beyond[1:], 3)
    cache = gf.UserCache(compiled)
    cache.extend(["a"], fits[1:])
    with pytest.raises(InvalidValueError, match="user 0 has 95 tokens"):
        cache.recommend(["a"], 3, items=[[4]])
    assert cache.history("a").tolist() == fits[1]
    search = gf.hf.trie_beam_search(TRIE, 10, engine=engine)
    settings = {"num_beams": 4, "custom_generate": search, "max_new_tokens": 3, "pad_token_id": 0}
    model.generate(torch.tensor(fits[1:]), **settings)
    with pytest.raises(InvalidValueError, match=r"^trie_beam_search: prompts must fit the model's 96 positions"):
        model.generate(torch.tensor(beyond[1:]), **settings)


@pytest.mark.parametrize("name", ["opt", "gpt_neo", "gptj", "ctrl", "mpt", "roberta", "bart", "marian", "led"])
@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
def test_the_longest_prompt_is_the_models_own(name):
    """What is let through is read, and one token more is what the model itself cannot read."""
    model = model_types.make(name)
    if model is None:
        pytest.skip("not in this transformers")
    encodes = model.config.is_encoder_decoder
    compiled = gf.hf.compile(model, TRIE, 10, engine="torch", **({"decoder_start_tokens": [2]} if encodes else {}))
    places = Places.of(model)
    most = places.encoder if encodes else places.decoder
    whole = torch.tensor([prompt(most + 1)])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=whole, **({"decoder_input_ids": whole[:, :1]} if encodes else {}))
    longest = most if encodes else most - 2
    assert compiled.recommend([prompt(longest)], 3).items.shape == (1, 3)
    with pytest.raises(InvalidValueError, match=f"must fit the model's {most} positions, but user 0 has {longest + 1}"):
        compiled.recommend([prompt(longest + 1)], 3)


def test_an_encoders_prompts_are_checked_before_generate_reads_them():
    """``generate`` lets the encoder read before it calls the search, which can say nothing of it any more."""
    model = model_types.make("bart")  # of 128 positions
    settings = {
        "num_beams": 4,
        "custom_generate": gf.hf.trie_beam_search(TRIE, 10, engine="torch"),
        "max_new_tokens": 3,
    }
    fits, beyond = torch.tensor([prompt(128)] * 2), torch.tensor([prompt(129)] * 2)
    gf.hf.check_prompts(model, fits)
    assert model.generate(fits, **settings).shape == (2, 4)
    with pytest.raises(IndexError):
        model.generate(beyond, **settings)
    text = "prompts must fit the model's 128 positions, but user 0 has 129 tokens, which is 1 too many"
    with pytest.raises(InvalidValueError, match=f"^check_prompts: {text}: give a shorter prompt"):
        gf.hf.check_prompts(model, beyond)
    gpt = make_model("gpt2")
    gf.hf.check_prompts(gpt, torch.zeros(0, 97, dtype=torch.int32))
    with pytest.raises(InvalidValueError, match="the model's 96 positions, but user 0 has 97 tokens"):
        gf.hf.check_prompts(gpt, torch.zeros(1, 97, dtype=torch.int32))
    gf.hf.check_prompts(make_model("t5"), torch.zeros(1, 9999, dtype=torch.int64))
    with pytest.raises(InvalidTypeError, match=r"^check_prompts: input_ids must be"):
        gf.hf.check_prompts(gpt, [[1, 2]])
    with pytest.raises(InvalidValueError, match=r"^check_prompts: input_ids must be \[B, S\], got \[3\]"):
        gf.hf.check_prompts(gpt, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_rotary_and_relative_positions_have_no_end(name):
    assert Places.of(make_model(name)) == (None, None)


def test_virtual_tokens_take_places():
    assert Places.of(make_model("gpt2"), before=4).decoder == 92

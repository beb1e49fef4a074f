"""Models that generate reads in two ways: with its cache or without, one prompt alone or padded beside others.

Where the two differ there is no one answer of Hugging Face's to be equal to. The search then gives that of whole texts,
each user's prompt alone, and says so.
"""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")

import transformers
from packaging.version import Version

from integrations.model_types import make
from integrations.models import generate, make_inputs, make_model, prefix_function

pytestmark = pytest.mark.slow

SIZES, OFFSET = (6, 5, 6), 20
CODES = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))[
    torch.randperm(180, generator=torch.Generator().manual_seed(1))[:60]
]
TRIE = gf.build_trie(CODES, codebook_sizes=SIZES)
TABLES = [range(20, 26), range(26, 31), range(31, 37)]


def theirs(model, inputs, **options):
    function = prefix_function(CODES, TABLES, None, inputs["input_ids"].shape[1])
    return generate(model, inputs, 8, 6, 3, None, prefix_allowed_tokens_fn=function, **options).sequences_scores


def alone(model, inputs, **options):
    """Hugging Face's scores of each prompt without the others and without padding."""
    found = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        ids = ids[mask.bool()][None]
        found.append(theirs(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, **options))
    return torch.cat(found)


def ours(model, inputs, engine="auto"):
    search = gf.hf.trie_beam_search(TRIE, OFFSET, engine=engine)
    return generate(model, inputs, 8, 6, 3, None, custom_generate=search).sequences_scores


def near(one, other):
    return torch.allclose(one, other, rtol=0, atol=1e-4)


def _no_order(model, patch):
    model.config.is_causal = False


def _no_order_of_layers(model, patch):
    for layer in model.model.layers:
        layer.self_attn.is_causal = False


def _window(model, patch):
    model.config.sliding_window = 3


def _chunks(model, patch):
    model.config.attention_chunk_size = 3


def _repeats(model, patch):
    home = importlib.import_module("transformers.integrations.sdpa_attention")
    known = home.repeat_kv
    patch.setattr(home, "repeat_kv", lambda hidden, times: known(hidden.flip(1), times))


# Of each: what is changed, and which of Hugging Face's two ways of reading then disagree.
CHANGES = {
    "a config without causal order": (_no_order, "cache"),
    "layers without causal order": (_no_order_of_layers, "cache"),
    "a window in the config alone": (_window, "cache"),
    "chunks in the config alone": (_chunks, "cache"),
    "a function that padded prompts alone call": (_repeats, "padding"),
}


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("what", CHANGES)
def test_where_two_readings_differ_that_of_whole_texts_counts(what, engine, monkeypatch):
    change, differs = CHANGES[what]
    model = make_model("llama")
    inputs = make_inputs(model, [3, 7, 5])
    change(model, monkeypatch)
    readings = [alone(model, inputs), theirs(model, inputs)]
    readings[differs == "cache"] = alone(model, inputs, use_cache=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ours(model, inputs, engine)
    if near(found, theirs(model, inputs)):  # an older transformers, of which one reading alone is asked
        assert Version(transformers.__version__) < Version("5.23")
        return
    assert not near(*readings)  # Hugging Face contradicts itself
    said = [str(warning.message) for warning in caught if warning.category is SlowPathWarning]
    assert any("or with padding, generate itself may answer otherwise" in text for text in said)
    assert near(found, alone(model, inputs, use_cache=False))
    with pytest.raises(UnsupportedError):
        ours(model, inputs, "native")


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_layers_that_share_a_place_in_the_cache_are_not_run_natively(name):
    """Read whole the text is the packed form's; by steps, as generate reads it, it is another one."""
    model = make_model(name)
    gf.hf.pack_weights(model)
    for module in model.modules():
        if getattr(module, "layer_idx", None) is not None:
            module.layer_idx = 0
    with pytest.raises(UnsupportedError, match=r"behind its cache, which a text read whole|is not read by steps"):
        gf.hf.pack_weights(model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "qwen2"])
def test_a_window_too_wide_for_a_trial_is_not_run_natively(name):
    model = make_model(name)
    gf.hf.pack_weights(model)
    model.config.sliding_window, model.config.layer_types = 4096, None
    with pytest.raises(UnsupportedError, match=r"with a window of \{4096\} in its config, through which its layers"):
        gf.hf.pack_weights(model)


def test_a_window_of_the_layers_is_run_natively():
    every = ["sliding_attention"] * 2
    for model in (make("qwen2", layer_types=every, use_sliding_window=True, sliding_window=4), make_model("mistral")):
        gf.hf.pack_weights(model)
        model.config.sliding_window = 4096  # as wide as no trial is long, and not what the layers were made for
        if model.config.model_type == "qwen2":
            with pytest.raises(UnsupportedError, match=r"with a window of \{4096\} in its config"):
                gf.hf.pack_weights(model)


def test_sizes_are_those_of_the_weights():
    """A config that is changed behind a model does not change it."""
    model = make_model("llama")
    inputs = make_inputs(model, [3, 7, 5])
    wanted = theirs(model, inputs)
    for name, value in {"num_key_value_heads": 4, "num_attention_heads": 2, "intermediate_size": 8}.items():
        setattr(model.config, name, value)
        assert near(ours(model, inputs, "native"), wanted) and near(theirs(model, inputs), wanted)


@pytest.mark.parametrize("length", [4, 11, 12, 20])
def test_rotary_positions_that_turn_while_an_item_is_written(length):
    """Phi-3 reads a text anew when it grows beyond its first positions; an answer that stays on one side is stepped."""
    long = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": 12}
    long |= {"short_factor": [1.0, 1.2, 1.4, 1.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    model = make("phi3", rope_parameters=long, original_max_position_embeddings=12, max_position_embeddings=128)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(40, 96, (2, 20), generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        ours(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})  # what a first call finds is kept
        ids = ids[:, :length]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert near(ours(model, inputs), theirs(model, inputs))


class Own(transformers.LlamaForCausalLM):
    """Places that count double behind ``generate``."""

    factor = 2

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, position_ids=None, **kwargs):
        found = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )
        if found.get("position_ids") is not None:
            found["position_ids"] = found["position_ids"] * self.factor
        return found


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
def test_inputs_that_a_model_prepares_otherwise_are_refused(engine):
    plain = make_model("llama")
    inputs = make_inputs(plain, [3, 7, 5])
    model = Own(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    assert not near(theirs(model, inputs), theirs(plain, inputs))
    named = r"by generate as by plain calls on its texts, got a Own with a prepare_inputs_for_generation of its own"
    with pytest.raises(UnsupportedError, match=named):
        ours(model, inputs, engine)
    with pytest.raises(UnsupportedError, match=named):
        gf.hf.compile(model, TRIE, OFFSET, engine=engine).recommend([[3, 4, 5]], 2)
    if engine == "torch":
        cached = gf.hf.compile(model, TRIE, OFFSET, engine=engine).language
        with pytest.raises(UnsupportedError, match=named):
            cached.reader()  # that of a UserCache
    model.factor = 1  # code of its own that changes nothing
    assert near(ours(model, inputs, engine), theirs(model, inputs))
    model = make_model("t5")
    model.prepare_inputs_for_generation = lambda *args, **kwargs: plain_t5(model, *args, **kwargs)
    inputs = make_inputs(model, [3, 7, 5])
    assert near(ours(model, inputs, engine), ours(make_model("t5"), inputs, "torch"))


def plain_t5(model, *args, **kwargs):
    return transformers.T5ForConditionalGeneration.prepare_inputs_for_generation(model, *args, **kwargs)

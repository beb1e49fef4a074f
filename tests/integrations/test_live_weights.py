"""A transformers model is searched with the weights, adapters and code that it has at the moment of the call."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import nn

import genrec_fast as gf
from genrec_fast.base.errors import SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")

import transformers

from genrec_fast.hf import families
from integrations.models import FAMILIES, generate, make_inputs, make_model, prefix_function
from integrations.test_hf_generate import SIZES, catalog, tables_of
from shared.weight_changes import CHANGES

pytestmark = pytest.mark.slow
CODES = catalog(60)
TRIE = gf.build_trie(CODES, codebook_sizes=SIZES)
LENGTHS = [5, 5]  # an adapter's own preparation of inputs does not know padding
WIDTH = 12


def search(engine):
    return gf.hf.trie_beam_search(TRIE, code_to_token=tables_of(), engine=engine)


def begins(model):
    return 1 if model.config.is_encoder_decoder else max(LENGTHS)


def theirs(model):
    function = prefix_function(CODES, tables_of(), None, begins(model))
    return generate(model, make_inputs(model, LENGTHS), WIDTH, 5, len(SIZES), None, prefix_allowed_tokens_fn=function)


def agree(model, engine="auto", recommends=True):
    """``generate`` and ``compile`` against Hugging Face's own search; returns the scores."""
    want = theirs(model)
    got = generate(model, make_inputs(model, LENGTHS), WIDTH, 5, len(SIZES), None, custom_generate=search(engine))
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(got.sequences_scores, want.sequences_scores, rtol=0, atol=2e-4)
    if recommends:
        compiled = gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine=engine)
        check(compiled, model, want)
    return want.sequences_scores


def check(compiled, model, want):
    inputs = make_inputs(model, LENGTHS)
    top = compiled.recommend(inputs["input_ids"], 5, num_beams=WIDTH, attention_mask=inputs["attention_mask"])
    power = len(SIZES) ** (model.generation_config.length_penalty or 1.0)  # generate divides by the length
    torch.testing.assert_close(top.scores.flatten() / power, want.sequences_scores, rtol=0, atol=2e-4)


def linear(model, place=-1):
    kinds = (nn.Linear, transformers.pytorch_utils.Conv1D)
    inside = model.decoder if hasattr(model, "decoder") else model.base_model
    return [module for module in inside.modules() if isinstance(module, kinds)][place]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["t5", "qwen3", "gpt2"])
def test_the_weights_are_those_of_now(name, change):
    if name == "gpt2" and "pruned" in change:
        pytest.skip("GPT-2's layers are no nn.Linear")
    model = make_model(name)
    before = agree(model, "native")
    compiled = gf.hf.compile(model, TRIE, code_to_token=tables_of())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)  # a hook is not run by the native engine
        CHANGES[change](model, make_model(name, seed=1))
        after = agree(model)
        check(compiled, model, theirs(model))  # one that was made before
    assert not torch.allclose(before, after, atol=1e-5)


def _hooked(model, monkeypatch):
    linear(model).register_forward_hook(lambda _, __, out: out * 1.5)


def _hooked_before(model, monkeypatch):
    linear(model).register_forward_pre_hook(lambda _, args: (args[0] * 0.5,))


def _forward(model, monkeypatch):
    layer = linear(model)
    layer.forward = lambda x, layer=layer: 2 * type(layer).forward(layer, x)


def _parametrized(model, monkeypatch):
    nn.utils.parametrize.register_parametrization(linear(model), "weight", nn.Tanh())


def _another_layer(model, monkeypatch):
    class Louder(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    linear(model).__class__ = Louder


def _class_changed(model, monkeypatch):
    kind = type(linear(model, 0) and next(m for m in model.modules() if "RMSNorm" in type(m).__name__))
    known = kind.forward

    @functools.wraps(known)
    def forward(self, x):
        return 1.3 * known(self, x)

    monkeypatch.setattr(kind, "forward", forward)


def _function_changed(model, monkeypatch):
    import sys

    home = sys.modules[type(model).__module__]
    known = home.apply_rotary_pos_emb
    monkeypatch.setattr(home, "apply_rotary_pos_emb", lambda q, k, cos, sin, *_, **__: known(q, k, sin, cos))


def _attention_registered(model, monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def halved(module, query, *args, **kwargs):
        return known(module, query * 0.5, *args, **kwargs)

    monkeypatch.setitem(type(ALL_ATTENTION_FUNCTIONS)._global_mapping, "sdpa", halved)
    model.config._attn_implementation = "sdpa"


def _own_bias(model, monkeypatch):
    linear(model).bias = nn.Parameter(torch.randn(linear(model).weight.shape[0]))


def _activation(model, monkeypatch):
    for module in model.modules():
        if hasattr(module, "act_fn"):
            module.act_fn = nn.Tanh()


def _epsilon_of_one_layer(model, monkeypatch):
    next(m for m in model.modules() if "RMSNorm" in type(m).__name__).variance_epsilon = 0.5


def _a_loop(model, monkeypatch):
    model.model.layers = nn.ModuleList([*model.model.layers, model.model.layers[0]])


MORE_THAN_WEIGHTS = {
    "hook": (_hooked, "has hooks at"),
    "hook before": (_hooked_before, "has hooks at"),
    "forward of one layer": (_forward, "has a forward of its own at"),
    "parametrization": (_parametrized, "Parametrized"),
    "another class of layer": (_another_layer, "Louder"),
    "a class changed": (_class_changed, r"RMSNorm.forward from \S*test_live_weights"),
    "a function changed": (_function_changed, r"apply_rotary_pos_emb from \S*test_live_weights"),
    "an attention registered": (_attention_registered, r"attention 'sdpa' from \S*test_live_weights"),
    "another activation": (_activation, "with activation Tanh"),
    "epsilon of one layer": (_epsilon_of_one_layer, "knows one epsilon for all layers"),
}


@pytest.mark.parametrize("what", MORE_THAN_WEIGHTS)
def test_a_model_that_is_more_than_its_weights_runs_on_torch(what, monkeypatch):
    model = make_model("qwen2")
    before = agree(model, "native")
    change, named = MORE_THAN_WEIGHTS[what]
    change(model, monkeypatch)
    with pytest.raises(UnsupportedError, match=named):
        search("native")(model, torch.ones(1, 1, dtype=torch.int64), generation_config=_settings())
    with pytest.raises(UnsupportedError, match=named):
        gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="native")
    with pytest.raises(UnsupportedError, match=named):
        gf.hf.pack_weights(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        assert not torch.allclose(before, agree(model), atol=1e-5)


def _settings():
    return transformers.GenerationConfig(num_beams=1, max_new_tokens=len(SIZES))


@pytest.mark.parametrize("name", ["t5", "flan-t5", "qwen2", "llama", "gpt2"])
def test_biases_count(name):
    """A bias wherever a linear layer may have one: natively, as the packed form has a place for each."""
    model = make_model(name)
    with torch.no_grad():
        if name == "gpt2":
            model.lm_head = nn.Linear(24, model.config.vocab_size)
        else:
            for place, module in list(model.named_modules()):
                if isinstance(module, nn.Linear):
                    with_bias = nn.Linear(module.in_features, module.out_features)
                    with_bias.weight = module.weight
                    model.set_submodule(place, with_bias)
    agree(model, "native")


def test_a_parameter_that_nobody_packs_is_no_stock_model():
    model = make_model("qwen2")
    model.model.extra = nn.Linear(3, 3)
    with pytest.raises(UnsupportedError, match=r"knows every weight it runs, and this model has model\.extra\.weight"):
        gf.hf.pack_weights(model)


def test_a_subclass_that_overrides_nothing_is_stock():
    class Mine(transformers.Qwen2ForCausalLM):
        """With a method of its own."""

        def describe(self):
            return "mine"

    class Other(Mine):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            return super().prepare_inputs_for_generation(*args, **kwargs)

    model = make_model("qwen2")
    model.__class__ = Mine
    agree(model, "native")
    model.__class__ = Other
    with pytest.raises(UnsupportedError, match="prepare_inputs_for_generation of its own"):
        gf.hf.pack_weights(model)


def test_dropout_in_training_is_not_left_out():
    model = make_model("t5").train()
    with pytest.raises(UnsupportedError, match="is in training mode with dropout at"):
        gf.hf.pack_weights(model)
    modes = [module.training for module in model.modules()]
    assert all(modes)
    gf.hf.pack_weights(model.eval())
    assert not any(module.training for module in model.modules())


def test_models_of_another_kind_with_a_known_name_are_refused():
    config = transformers.T5Config(**make_model("t5").config.to_diff_dict())
    with pytest.raises(UnsupportedError, match="must be a T5ForConditionalGeneration of transformers, got T5EncoderM"):
        gf.hf.pack_weights(transformers.T5EncoderModel(config))
    with pytest.raises(UnsupportedError, match="got Linear"):
        gf.hf.pack_weights(nn.Linear(2, 2))


def test_tensors_that_are_no_plain_floats_are_refused():
    model = make_model("qwen2")
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(
        torch.zeros(24, 40, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(UnsupportedError, match=r"weights of torch.int8 at model\.layers\.1\.mlp\.down_proj"):
        gf.hf.pack_weights(model)
    model = make_model("qwen2")
    model.model.layers[1] = model.model.layers[1].to("meta")  # offloaded: the first parameter is still here
    with pytest.raises(UnsupportedError, match="on meta at"):
        gf.hf.pack_weights(model)


def test_dynamically_quantized_models_run_on_torch():
    model = make_model("qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        want = theirs(model)
        got = generate(model, make_inputs(model, LENGTHS), WIDTH, 5, len(SIZES), None, custom_generate=search("auto"))
    # Its layers round activations by the largest of a call, and a call here holds other rows.
    torch.testing.assert_close(got.sequences_scores, want.sequences_scores, rtol=0.05, atol=0)


def test_torchao_models_run_on_torch():
    quantization = pytest.importorskip("torchao.quantization")
    model = make_model("qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        agree(model, recommends=False)
    with pytest.raises(UnsupportedError, match="torchao"):
        gf.hf.pack_weights(model)


def test_wrappers_that_pass_calls_on_are_looked_through():
    model = make_model("qwen2")
    want = theirs(model)
    for wrapper in (nn.DataParallel(model), torch.compile(model)):
        check(gf.hf.compile(wrapper, TRIE, code_to_token=tables_of()), model, want)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_that_nobody_touches_is_packed_once(name, monkeypatch):
    packed, pack = [], families.pack_stacks
    monkeypatch.setattr(families, "pack_stacks", lambda *given: packed.append(1) or pack(*given))
    model = make_model(name)
    compiled = gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="native")
    inputs = make_inputs(model, LENGTHS)
    for _ in range(2):
        generate(model, inputs, WIDTH, 5, len(SIZES), None, custom_generate=search("native"))
        theirs(model)  # whatever generate leaves behind in a model
        compiled.recommend(inputs["input_ids"], 5, num_beams=WIDTH)
        model.train().eval()
    assert len(packed) == 1

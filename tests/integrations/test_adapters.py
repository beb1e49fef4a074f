"""Models with adapters of peft: the answers of the adapted model, whoever runs it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import genrec_fast as gf
from genrec_fast.base.errors import GenrecError, SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft

from integrations.models import generate, make_inputs, make_model
from integrations.test_hf_generate import SIZES
from integrations.test_live_weights import CODES, LENGTHS, TRIE, WIDTH, agree, check, search, tables_of, theirs

# What peft itself calls of transformers changes its name from version to version.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TARGETS = ["q_proj", "v_proj", "down_proj"]
KINDS = {
    "lora": peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS),
    "rslora": peft.LoraConfig(r=4, use_rslora=True, target_modules=TARGETS),
    "dora": peft.LoraConfig(r=4, use_dora=True, target_modules=TARGETS),
    "lora on the embedding": peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "lora and a whole head": peft.LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["lm_head"]),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "loha": peft.LoHaConfig(r=4, target_modules=TARGETS),
    "lokr": peft.LoKrConfig(r=4, target_modules=TARGETS),
}


def adapted(kind, name="qwen2", seed=1):
    torch.manual_seed(seed)
    model = peft.get_peft_model(make_model(name), kind)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(1 if "ia3_" in path else 0, 0.2)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_merged_into_the_packed_copy(kind):
    model = adapted(KINDS[kind])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    scores = agree(model, "native")
    assert not torch.allclose(scores, theirs(make_model("qwen2")).sequences_scores, atol=1e-3)
    check(gf.hf.compile(model.base_model.model, TRIE, code_to_token=tables_of()), model, theirs(model))
    for name, parameter in model.named_parameters():  # the model itself is left alone
        assert torch.equal(parameter, before[name])


def test_t5_with_adapters():
    kind = peft.LoraConfig(r=4, target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM")
    agree(adapted(kind, "flan-t5"), "native")


def test_what_is_switched_is_seen_at_the_next_call():
    model = adapted(KINDS["lora"])
    with_adapter = agree(model)
    with model.disable_adapter():
        without = agree(model)
    assert not torch.allclose(with_adapter, without, atol=1e-4)
    assert torch.equal(agree(model), with_adapter)
    model.merge_adapter()
    torch.testing.assert_close(agree(model), with_adapter, rtol=0, atol=1e-4)
    model.unmerge_adapter()
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.scaling["default"] *= 3
    scaled = agree(model)
    assert not torch.allclose(scaled, with_adapter, atol=1e-4)
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        layer.lora_B["other"].weight.normal_()
    model.set_adapter("other")
    assert not torch.allclose(agree(model), scaled, atol=1e-4)
    agree(model.merge_and_unload(), "native")


def test_training_an_adapter_between_searches():
    model = adapted(KINDS["lora"])
    before = agree(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
    tokens = make_inputs(model, LENGTHS)["input_ids"]
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert not torch.allclose(agree(model), before, atol=1e-4)


def test_rounded_weights_are_not_merged():
    model = adapted(KINDS["lora"])
    model.base_model.model.to(torch.bfloat16)
    with pytest.raises(UnsupportedError, match="merged exactly in float32 only"):
        gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="native")


@pytest.mark.parametrize(
    "kind",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16),
    ],
    ids=["prompt tuning", "p-tuning"],
)
def test_learned_prompts_stand_before_every_prompt(kind):
    # Against ``forward``: peft 0.21 with transformers 5.24 puts them before every single token of ``generate``.
    model = adapted(kind)
    wanted = scores_of_items(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch runs it, and says so
        inputs = make_inputs(model, LENGTHS)
        out = generate(model, inputs, 60, 5, len(SIZES), None, custom_generate=search("auto"), length_penalty=0.0)
        top = gf.hf.compile(model, TRIE, code_to_token=tables_of()).recommend(inputs["input_ids"], 5, num_beams=60)
    for scores in (out.sequences_scores.view(2, 5), top.scores):
        torch.testing.assert_close(scores, wanted.topk(5).values, rtol=0, atol=2e-4)
    assert torch.equal(top.items, wanted.topk(5).indices)
    with pytest.raises(UnsupportedError, match="learned prompt"):
        gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="native")
    with pytest.raises(UnsupportedError, match="behind a learned prompt keeps no keys and values"):
        gf.UserCache(gf.hf.compile(model, TRIE, code_to_token=tables_of()))


def scores_of_items(model):
    """Summed log-probabilities [B, N] of all items, from whole texts."""
    tables, out = tables_of(), []
    for prompt in make_inputs(model, LENGTHS)["input_ids"]:
        items = torch.tensor([[tables[level][code] for level, code in enumerate(row)] for row in CODES.tolist()])
        texts = torch.cat([prompt.expand(len(items), -1), items], 1)
        with torch.no_grad():
            logits = model(input_ids=texts).logits[:, -len(SIZES) - 1 : -1]
        out.append(logits.log_softmax(-1).gather(2, items.unsqueeze(2)).squeeze(2).sum(1))
    return torch.stack(out)


def test_learned_prompts_stand_right_before_prompts_of_any_length():
    model = adapted(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    compiled = gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="torch")
    together = compiled.recommend([[2, 3, 4], [5]], 5)
    for user, prompt in enumerate(([2, 3, 4], [5])):
        alone = compiled.recommend([prompt], 5)
        torch.testing.assert_close(together.scores[user], alone.scores[0], rtol=0, atol=1e-5)


def test_generate_refuses_padding_behind_a_learned_prompt():
    """Peft counts padding as positions between the learned prompt and the text, so its answer depends on the batch."""
    model = adapted(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(UnsupportedError, match="must have no padding behind a learned prompt"):
        generate(model, make_inputs(model, [3, 5]), WIDTH, 5, len(SIZES), None, custom_generate=search("torch"))


def test_learned_keys_are_refused_by_name():
    model = adapted(peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(GenrecError, match="PREFIX_TUNING"):
            agree(model)
        with pytest.raises(GenrecError, match="PREFIX_TUNING"):
            gf.hf.compile(model, TRIE, code_to_token=tables_of())


def test_layers_of_a_users_own_around_adapters_run_on_torch():
    model = adapted(KINDS["lora"])
    model.base_model.model.model.layers[0].mlp.register_forward_hook(lambda _, __, out: 2 * out)
    with pytest.raises(UnsupportedError, match="has hooks at"):
        search("native")(
            model.base_model.model,
            torch.ones(1, 1, dtype=torch.int64),
            generation_config=nn.Module.__new__(_Settings),
        )


class _Settings:
    num_beams, num_return_sequences, do_sample, return_dict_in_generate = 1, 1, False, False


def _hooked(layer):
    layer.register_forward_hook(lambda _, args, out: 2 * out if args[0].shape[0] > 1 else out)


def _hooked_inside(layer):
    layer.lora_A["default"].register_forward_hook(lambda _, args, out: 2 * out if args[0].shape[0] > 1 else out)


def _replaced(layer):
    known = layer.forward
    layer.forward = lambda x, *more, **named: known(x, *more, **named) * (2 if x.shape[0] > 1 else 1)


@pytest.mark.parametrize("change", [_hooked, _hooked_inside, _replaced])
def test_what_is_added_to_an_adapters_layer_counts(change):
    """Each shows with several users alone, and not in the text that a merged copy is compared by."""
    model = adapted(KINDS["lora"])
    agree(model, "native")
    change(model.base_model.model.model.layers[0].self_attn.q_proj)
    with pytest.raises(
        UnsupportedError, match=r"(has hooks at|has a forward of its own at) model\.layers\.0\.self_attn\.q_p"
    ):
        gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="native")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        agree(model)


@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
@pytest.mark.parametrize("training", [False, True])
def test_a_search_leaves_every_module_in_its_mode(training):
    """GPT-2 has dropout: one call that switched it on would change all that come after."""
    kind = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    for model in (adapted(kind, "gpt2"), make_model("gpt2")):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.transformer.h[0].train(training)
        modes = {name: module.training for name, module in model.named_modules()}
        compiled = gf.hf.compile(model, TRIE, code_to_token=tables_of(), engine="torch")
        compiled.recommend([[3, 4, 5]], 3)
        assert {name: module.training for name, module in model.named_modules()} == modes
        assert not training or any(modes.values())


def test_an_adapter_for_each_row_is_refused():
    model = adapted(KINDS["lora"])
    model.add_adapter("other", KINDS["lora"])
    names = {"adapter_names": ["default", "other"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        with pytest.raises(UnsupportedError, match=r"adapter_names must be None .* set_adapter, and a call"):
            generate(
                model, make_inputs(model, LENGTHS), WIDTH, 5, len(SIZES), None, custom_generate=search("auto"), **names
            )

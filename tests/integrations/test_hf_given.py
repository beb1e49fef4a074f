"""What ``generate`` is given beside prompts has its effect or is refused by name: states, masks, settings, wrappers."""

from __future__ import annotations

import types
import warnings

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")

import transformers

from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.engine import TorchEngine
from genrec_fast.hf.given import check_given, check_settings
from genrec_fast.hf.prompts import prompts_of
from integrations.model_types import make
from integrations.models import generate, prefix_function

pytestmark = [
    pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning"),
    pytest.mark.filterwarnings("ignore:Unfeasible length constraints"),  # of transformers, which goes on all the same
    pytest.mark.filterwarnings("ignore:.* is deprecated:FutureWarning"),  # of transformers, which peft still calls so
]

SIZES, OFFSET = (4, 4, 4), 10
CODES = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.tensor([0, 2]))
TABLES = [range(OFFSET + 4 * level, OFFSET + 4 * level + 4) for level in range(3)]
CODE_TOKENS = list(range(10, 22))
IDS = torch.tensor([[60, 61, 70, 80, 90, 72], [65, 66, 67, 68, 69, 70]])


@pytest.fixture(scope="module")
def trie():
    return gf.build_trie(CODES, codebook_sizes=SIZES)


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(name)
        return made[name]

    return get


def ours(model, trie, engine="auto", ids=IDS, mask=None, end=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    search = gf.hf.trie_beam_search(trie, OFFSET, engine=engine)
    given = {"input_ids": ids, "attention_mask": mask}
    return generate(model, given, 6, 4, 3, end, custom_generate=search, length_penalty=0.0, **options)


def theirs(model, ids=IDS, mask=None, end=None):
    begin = 1 if model.config.is_encoder_decoder else ids.shape[1]
    allowed = prefix_function(CODES, TABLES, end, begin)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask}
    return generate(model, given, 6, 4, 3, end, prefix_allowed_tokens_fn=allowed, length_penalty=0.0)


@pytest.mark.parametrize("name", ["llama", "mistral", "t5", "bart", "mamba", "jamba"])
def test_a_filled_state_is_refused_under_its_name(models, trie, name):
    model = models(name)
    if model is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    called = CalledModel(model)
    start = {"decoder_input_ids": IDS[:, :2]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        state = getattr(model(input_ids=IDS[:, :3], use_cache=True, **start), called.cache_name)
    if state is None:
        pytest.skip(f"{name} makes no state by itself")
    for argument in {called.cache_name, "past_key_values", "cache_params", "cache"}:
        with pytest.raises(UnsupportedError, match=f"{argument} must be empty: give whole prompts, got "):
            check_given(model, {argument: state})
    with pytest.raises(UnsupportedError, match="must be empty: give whole prompts, got "):
        ours(model, trie, **{called.cache_name: state})


def test_states_of_old_kinds_are_refused(models):
    keys = torch.ones(1, 4, 3, 8)
    for name in ("past_key_values", "state", "mems", "past_buckets_states"):
        with pytest.raises(UnsupportedError, match=f"{name} must be empty: give whole prompts, got a tuple with"):
            check_given(models("llama"), {name: ((keys, keys),)})
        check_given(models("llama"), {name: ((keys * 0, keys * 0),)})


def test_an_argument_that_a_search_would_drop_is_refused(models, trie):
    with pytest.raises(UnsupportedError, match=r"token_type_ids must be None: .* got Tensor"):
        ours(models("gpt2"), trie, token_type_ids=torch.ones_like(IDS))
    own = {"decoder_input_ids": IDS[:, :2], "decoder_attention_mask": torch.tensor([[0, 1], [1, 1]])}
    with pytest.raises(UnsupportedError, match="decoder_attention_mask must be 1 everywhere, got a 0"):
        ours(models("t5"), trie, **own)
    with pytest.raises(UnsupportedError, match=r"attention_mask must be \[B, S\], got \[2, 1, 6, 6\]"):
        prompts_of(models("llama"), IDS, 1, {"attention_mask": torch.ones(2, 1, 6, 6)})
    with pytest.raises(InvalidValueError, match=r"attention_mask must be \[2, 6\] like input_ids, got \[2, 5\]"):
        prompts_of(models("llama"), IDS, 1, {"attention_mask": torch.ones(2, 5)})
    plain = {"do_sample": False, "return_dict_in_generate": False}
    for name, value in (("num_beam_groups", 2), ("diversity_penalty", 0.5), ("penalty_alpha", 0.6)):
        with pytest.raises(UnsupportedError, match=f"{name} must be .*, got {value}"):
            check_settings(types.SimpleNamespace(**plain, **{name: value}), None)
    check_settings(types.SimpleNamespace(**plain, num_beam_groups=1, diversity_penalty=0.0, constraints=None), None)


def test_masks_and_positions_of_another_form_are_refused(models, trie):
    model = models("llama")
    with pytest.raises(InvalidValueError, match="attention_mask must be 0 or 1 everywhere, got 2"):
        ours(model, trie, mask=torch.full_like(IDS, 2))
    with pytest.raises(InvalidValueError, match=r"position_ids must be \[2, 6\] like input_ids, got \[6, 6\]"):
        ours(model, trie, position_ids=torch.arange(6)[None])
    planes = torch.arange(6).expand(4, 2, 6).clone()  # as of Qwen2-VL, which reads a text here
    assert prompts_of(model, IDS, 1, {"position_ids": planes}).rows.lengths.tolist() == [6, 6]
    planes[2, 1, 3] = 7
    with pytest.raises(UnsupportedError, match="position_ids must count the tokens of each prompt from 0"):
        prompts_of(model, IDS, 1, {"position_ids": planes})
    for mask in (torch.ones_like(IDS).bool(), torch.ones_like(IDS).float()):
        assert torch.equal(ours(model, trie, mask=mask).sequences, theirs(model).sequences)
    assert torch.equal(ours(model, trie, ids=IDS.int()).sequences, theirs(model).sequences)


def test_processors_that_remember_are_refused(models, trie):
    with pytest.raises(UnsupportedError, match="guidance_scale must be None, as a Unbatched"):
        ours(models("llama"), trie, guidance_scale=1.5)


class _Nothing(transformers.LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf)


_FORBIDDING = {
    "min_length (or min_new_tokens)": ("llama", {"min_length": 40, "end": 1}),
    r"min_length \(or min_new_tokens\)": ("t5", {"min_new_tokens": 4, "end": 1}),
    "forced_bos_token_id": ("bart", {"forced_bos_token_id": 0}),
    "forced_eos_token_id": ("bart", {"forced_eos_token_id": 1}),
    "suppress_tokens": ("gpt2", {"suppress_tokens": CODE_TOKENS}),
    "begin_suppress_tokens": ("llama", {"begin_suppress_tokens": CODE_TOKENS[:4]}),
    "bad_words_ids": ("mistral", {"bad_words_ids": [[token] for token in CODE_TOKENS[4:8]]}),
    "logits_processor _Nothing": ("bart", {"logits_processor": [_Nothing()]}),
}


@pytest.mark.parametrize("setting", _FORBIDDING)
def test_a_setting_that_leaves_nobody_an_item_is_named(models, trie, setting):
    name, options = _FORBIDDING[setting]
    rule = setting.replace("\\", "").replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InvalidValueError, match=f"^trie_beam_search: {rule} must leave an item .* user 0 has none: "):
        ours(models(name), trie, **options)


class _Second(transformers.LogitsProcessor):
    """Forbids everything behind the second prompt, at its third token."""

    def __call__(self, input_ids, scores):
        closed = (input_ids[:, 0] == 65) & torch.tensor(input_ids.shape[1] == 8)
        return scores.masked_fill(closed.unsqueeze(1), -torch.inf)


def test_one_user_without_an_item_is_named_and_some_items_are_fine(models, trie):
    with pytest.raises(InvalidValueError, match=r"logits_processor _Second must leave an item .* user 1 has none"):
        ours(models("llama"), trie, logits_processor=[_Second()])
    found = ours(models("llama"), trie, suppress_tokens=[10, 11, 12])
    assert bool((found.sequences[:, 6] == 13).all()) and bool((found.sequences_scores > -torch.inf).all())
    model = models("bart")
    found = ours(model, trie, end=1, min_length=4)  # start and item are as many
    torch.testing.assert_close(found.sequences_scores, theirs(model, end=1).sequences_scores, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "bloom", "gemma2", "gpt_neo", "t5", "bart"])
def test_masked_tokens_anywhere_count_as_in_the_model(models, trie, name):
    """Left padding, and tokens masked inside: a window sees their place, positions do not."""
    model = models(name)
    ids = torch.cat([IDS, IDS.flip(1)], 1)
    mask = torch.ones_like(ids)
    mask[0, [0, 5, 6, 10]] = 0
    mask[1, 8] = 0
    wanted = theirs(model, ids, mask)
    found = ours(model, trie, "auto", ids, mask)
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores, rtol=0, atol=1e-3)
    if name == "mistral":
        with pytest.raises(UnsupportedError, match="attention_mask must have no 0 inside a prompt for the native"):
            ours(model, trie, "native", ids, mask)


def test_wrappers_and_models_without_a_head_are_refused(models, trie):
    with pytest.raises(InvalidTypeError, match=r"got DataParallel: give its \.module, LlamaForCausalLM"):
        TorchEngine(torch.nn.DataParallel(models("llama")))  # compile looks through it
    with pytest.raises(InvalidTypeError, match="must be a model of transformers, got Linear"):
        gf.hf.compile(torch.nn.Linear(2, 2), trie, OFFSET, engine="torch")
    body = models("bloom").transformer
    with pytest.raises(InvalidTypeError, match="must have a language model head, got BloomModel"):
        gf.hf.compile(body, trie, OFFSET, engine="torch").recommend([[60]], 2)


def test_an_offloaded_model_runs_where_accelerate_puts_it(models, trie):
    accelerate = pytest.importorskip("accelerate")
    wanted = gf.hf.compile(models("bloom"), trie, OFFSET).recommend(IDS, 5)
    for name in ("bloom", "bart"):
        wanted = gf.hf.compile(models(name), trie, OFFSET).recommend(IDS, 5)
        offloaded = accelerate.cpu_offload(make(name), execution_device=torch.device("cpu"))
        assert next(offloaded.parameters()).is_meta
        found = gf.hf.compile(offloaded, trie, OFFSET).recommend(IDS, 5)
        assert torch.equal(found.items, wanted.items) and torch.equal(found.scores, wanted.scores)


def test_a_model_that_could_read_images_reads_texts(trie):
    text = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
    )
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = transformers.CLIPVisionConfig(**vision, image_size=8, patch_size=4)
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=seen, text_config=text, image_token_index=95)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    found, wanted = ours(model, trie), theirs(model)
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores, rtol=0, atol=1e-3)
    check_given(model, {"mm_encoder_outputs": {"image": None}})
    with pytest.raises(UnsupportedError, match=r"mm_encoder_outputs must be None: .* got dict"):
        check_given(model, {"mm_encoder_outputs": {"image": torch.ones(1)}})
    with pytest.raises(UnsupportedError, match=r"pixel_values must be None: .* got Tensor"):
        check_given(model, {"pixel_values": torch.ones(1, 3, 8, 8)})


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_another_default_dtype_runs_on_torch(models, trie, name):
    model = models(name)
    wanted = theirs(model)
    torch.set_default_dtype(torch.float64)
    try:
        found = ours(model, trie)
        recommended = gf.hf.compile(model, trie, OFFSET).recommend(IDS, 4, num_beams=6)
        with pytest.raises(UnsupportedError, match=r"computes in float32, and torch's default is torch\.float64"):
            ours(model, trie, "native")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.sequences, wanted.sequences)
    for scores in (found.sequences_scores, recommended.scores.flatten()):
        torch.testing.assert_close(scores, wanted.sequences_scores, rtol=0, atol=1e-3)


def test_compile_starts_a_decoder_as_generate_does(trie):
    model = make("t5")
    before = gf.hf.compile(model, trie, OFFSET).recommend(IDS, 4, num_beams=6).scores
    model.generation_config.decoder_start_token_id = 5
    found = gf.hf.compile(model, trie, OFFSET).recommend(IDS, 4, num_beams=6).scores
    torch.testing.assert_close(found.flatten(), theirs(model).sequences_scores, rtol=0, atol=1e-3)
    assert not torch.allclose(found, before, atol=1e-3)


def test_settings_of_generate_that_compile_leaves_out_are_said(trie):
    model = make("qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gf.hf.compile(model, trie, OFFSET)
    model.generation_config.repetition_penalty, model.generation_config.suppress_tokens = 1.05, [70]
    with pytest.warns(UserWarning, match=r"in generate, got repetition_penalty=1\.05, suppress_tokens=\[70\]: set it"):
        gf.hf.compile(model, trie, OFFSET)
    starts = make("bart")
    starts.generation_config.forced_bos_token_id = 0
    with pytest.warns(UserWarning, match="in generate, got forced_bos_token_id=0: set it"):
        gf.hf.compile(starts, trie, OFFSET)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", SlowPathWarning)
        gf.hf.compile(starts, trie, OFFSET, decoder_start_tokens=[2, 0])


def test_adapters_run_on_torch_as_the_model_has_them(trie):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(make("llama"), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            parameter.add_(torch.randn_like(parameter) if "lora_B" in name else 0)
    wanted = theirs(adapted)
    found = ours(adapted, trie, "torch")
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores, rtol=0, atol=1e-3)
    scores = gf.hf.compile(adapted, trie, OFFSET, engine="torch").recommend(IDS, 4, num_beams=6).scores
    torch.testing.assert_close(scores.flatten(), wanted.sequences_scores, rtol=0, atol=1e-3)

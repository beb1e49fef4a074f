"""Model types of transformers, one after the other: Hugging Face's own beams and scores, or refused by name."""

from __future__ import annotations

import math
import pathlib
import warnings

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidValueError, SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")

import transformers

from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.engine import TorchEngine
from genrec_fast.hf.stepped import Stepped
from genrec_fast.hf.whole import WholeTexts
from genrec_fast.hf.writing import choose_engine
from genrec_fast.nn.engine.native import NativeEngine
from integrations.model_types import MODEL_TYPES, THEIRS_DIFFER, VERDICTS, make
from integrations.models import prefix_function

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore", "default::genrec_fast.base.errors.SlowPathWarning"),
]

SIZES, OFFSET, BEAMS = (4, 4, 4), 10, 24
CODES = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))[
    torch.randperm(64, generator=torch.Generator().manual_seed(0))[:BEAMS]
]
ROWS = CODES + OFFSET + torch.tensor([0, 4, 8])
TABLES = [range(OFFSET + 4 * level, OFFSET + 4 * level + 4) for level in range(3)]
PROMPTS = [[60, 61, 70, 80, 90, 72, 73, 74, 75], [65, 66], [67, 68, 69, 91, 92]]
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "drop_in.md"


def padded(model):
    """int64 input_ids and attention_mask, padded where the kind of model wants it."""
    longest = max(map(len, PROMPTS))
    ids = torch.zeros(len(PROMPTS), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(PROMPTS):
        place = slice(0, len(prompt)) if model.config.is_encoder_decoder else slice(longest - len(prompt), longest)
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def brute_force(model, prompt):
    """Summed log-probabilities of every item by plain calls on whole texts, one length at a time, no cache."""
    total = torch.zeros(len(ROWS))
    for length in range(3):
        written, item = ROWS[:1, :0], torch.zeros(len(ROWS), dtype=torch.int64)
        if length:
            written, item = ROWS[:, :length].unique(dim=0, return_inverse=True)
        read = torch.tensor([prompt]).expand(len(written), -1)
        if model.config.is_encoder_decoder:
            start = torch.full((len(written), 1), model.config.decoder_start_token_id)
            out = model(input_ids=read, decoder_input_ids=torch.cat([start, written], 1), use_cache=False)
        else:
            out = model(input_ids=torch.cat([read, written], 1), use_cache=False)
        total += out.logits[:, -1].float().log_softmax(-1)[item, ROWS[:, length]]
    return total


def verdict_of(model):
    """Which engine runs it, and how."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = choose_engine(model, "auto", None)
        if isinstance(engine, NativeEngine):
            return "native"
        assert isinstance(engine, TorchEngine)
        start = None
        if model.config.is_encoder_decoder:
            start = gf.Jagged.from_rows([[model.config.decoder_start_token_id]])
        with torch.no_grad():
            state = engine.prefill(gf.Jagged.from_rows(PROMPTS[:1]), start)
    assert isinstance(state, Stepped | WholeTexts)
    return "steps" if isinstance(state, Stepped) else "whole texts"


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_a_model_type_gives_its_own_scores_or_is_refused(name):
    """24 items and 24 beams: every item is found, so scores and order are known whatever way they are computed."""
    model = make(name)
    if model is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    trie = gf.build_trie(CODES, codebook_sizes=SIZES)
    search = gf.hf.trie_beam_search(trie, OFFSET)
    settings = {"num_beams": BEAMS, "num_return_sequences": BEAMS, "max_new_tokens": 3, "do_sample": False}
    settings |= {"eos_token_id": None, "pad_token_id": 0, "length_penalty": 0.0}
    settings |= {"return_dict_in_generate": True, "output_scores": True}
    inputs = padded(model)
    if VERDICTS.get(name) == "refused":
        for call in (
            lambda: gf.hf.compile(model, trie, OFFSET),
            lambda: model.generate(**inputs, **settings, custom_generate=search),
        ):
            with pytest.raises(UnsupportedError, match=f"got {model.config.model_type} "):
                call()
        return
    newest = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)
    found = verdict_of(model)
    assert found == VERDICTS.get(name, "steps") or (not newest and found != "native")
    wanted = [brute_force(model, prompt) for prompt in PROMPTS]
    turned = brute_force(model, PROMPTS[0][::-1])
    assert float((turned - wanted[0]).abs().max()) > 0.005  # what follows depends on the prompt and its order

    begin = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    ours = model.generate(**inputs, **settings, custom_generate=search)
    recommended = gf.hf.compile(model, trie, OFFSET).recommend(PROMPTS, BEAMS, num_beams=BEAMS)
    assert bool(recommended.exact.all())
    for user, scores in enumerate(wanted):
        here = slice(user * BEAMS, (user + 1) * BEAMS)
        items = (ours.sequences[here, begin:].unsqueeze(1) == ROWS).all(2)
        assert bool((items.sum(1) == 1).all()) and bool((items.sum(0) == 1).all())
        best = scores.sort(descending=True).values
        for got in (ours.sequences_scores[here], recommended.scores[user]):
            torch.testing.assert_close(got, best, rtol=0, atol=1e-3)
        order = items.int().argmax(1)
        torch.testing.assert_close(scores[order], best, rtol=0, atol=1e-3)
        torch.testing.assert_close(scores[recommended.items[user]], best, rtol=0, atol=1e-3)
    if name in THEIRS_DIFFER or not newest:
        return
    allowed = prefix_function(CODES, TABLES, None, begin)
    theirs = model.generate(**inputs, **settings, prefix_allowed_tokens_fn=allowed)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=0, atol=1e-3)
    gaps = theirs.sequences_scores.diff().abs()
    clear = torch.cat([gaps, gaps.new_ones(1)]) > 1e-3  # close ones may change places
    clear &= torch.cat([gaps.new_ones(1), gaps]) > 1e-3
    assert torch.equal(ours.sequences[clear], theirs.sequences[clear])


def test_the_list_in_the_docs_is_this_one():
    """docs/drop_in.md names every type that is run here, under its verdict."""
    text = " ".join(DOCS.read_text().split())
    for verdict in ("native", "steps", "whole texts", "refused"):
        names = sorted(name for name in MODEL_TYPES if VERDICTS.get(name, "steps") == verdict)
        assert f"({verdict}): {', '.join(names)}." in text, f"({verdict}): {', '.join(names)}."
    assert f"({len(MODEL_TYPES)} of them)" in text


def test_a_state_that_goes_wrong_is_found_out():
    """A model whose second step forgets its cache, as Mamba's did under another name: read whole in its place."""
    model = make("llama")
    plain, name = model.forward, CalledModel(model).cache_name

    def forgets(input_ids=None, attention_mask=None, position_ids=None, cache=None, use_cache=None, return_dict=None):
        mask = attention_mask if cache is None else None
        out = plain(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=use_cache)
        out.cache = getattr(out, name)
        return out

    wanted = brute_force(model, PROMPTS[0])
    model.forward = forgets
    trie = gf.build_trie(CODES, codebook_sizes=SIZES)
    with pytest.warns(SlowPathWarning, match="LlamaForCausalLM keeps no state that beams can take over"):
        found = gf.hf.compile(model, trie, OFFSET, engine="torch").recommend(PROMPTS[:1], BEAMS, num_beams=BEAMS)
    torch.testing.assert_close(found.scores[0], wanted.sort(descending=True).values, rtol=0, atol=1e-3)


def test_half_precision_and_noise_of_quantization_are_no_wrong_state():
    """bfloat16 rounds, and dynamic quantization differs with the texts read together: neither costs the cache."""
    linear = {torch.nn.Linear}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(make("qwen2"), linear, dtype=torch.qint8)
    for model in (make("qwen2").bfloat16(), make("mamba2").half(), quantized):
        engine = TorchEngine(model)
        with torch.no_grad():
            state = engine.prefill(gf.Jagged.from_rows(PROMPTS))
        assert (isinstance(state, Stepped) or not hasattr(state, "cache")) and math.isfinite(float(state.logits.sum()))


@pytest.mark.parametrize("name", ["qwen2", "t5", "mamba", "rwkv"])
def test_some_users_of_a_session_go_on_alone(name):
    """By cache or by whole texts, on a cache of their own; a session that was extended has given its cache away."""
    model = make(name)
    start = None
    if model.config.is_encoder_decoder:
        start = gf.Jagged.from_rows([[model.config.decoder_start_token_id]] * 3)
    users, tokens = torch.tensor([2, 0]), torch.tensor([[5, 6], [7, 8], [9, 10]])
    parents = torch.zeros(3, 2, dtype=torch.int64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", SlowPathWarning)
        root = TorchEngine(model).prefill(gf.Jagged.from_rows([[11, 12, 13], [14], [15, 16]]), start)
        chosen = root.select(users)
        assert torch.equal(chosen.scores()[0], root.scores()[0][users])
        all_users, some = root.extend(tokens, parents), chosen.extend(tokens[users], parents[users])
        torch.testing.assert_close(some.logits, all_users.logits[users], rtol=0, atol=1e-4)
        again = all_users.select(users)
        on, alone = (s.extend(torch.tensor([[3, 4]] * len(s.logits)), torch.tensor([[1, 0]] * len(s.logits)))
                     for s in (all_users, again))  # fmt: skip
        torch.testing.assert_close(alone.logits, on.logits[users], rtol=0, atol=1e-4)
        if isinstance(root, Stepped):
            with pytest.raises(InvalidValueError, match="session must have its cache, got one that was extended"):
                root.extend(tokens, parents)

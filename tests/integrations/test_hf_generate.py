"""The drop-in returns what Hugging Face's own beam search returns: every family, ragged prompts, any width."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, SlowPathWarning, UnsupportedError

pytest.importorskip("transformers")

from integrations.models import FAMILIES, VOCAB, generate, make_inputs, make_model, prefix_function

SIZES = (7, 5, 6)
OFFSET = 20


def catalog(num_items, seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, (num_items,), generator=generator) for size in sizes], 1)
    return codes.unique(dim=0).int()


def tables_of(sizes=SIZES, offset=OFFSET):
    begins = [offset + sum(sizes[:level]) for level in range(len(sizes))]
    return [range(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)]


@pytest.fixture(scope="module")
def models():
    made = {}

    def get(name):
        if name not in made:
            made[name] = make_model(name)
        return made[name]

    return get


def compare(model, codes, lengths, num_beams, k, end, engine, tables=None, **options):
    trie = gf.build_trie(codes, codebook_sizes=SIZES)
    inputs = make_inputs(model, lengths)
    begin = 1 if model.config.is_encoder_decoder else max(lengths)
    tables = tables_of() if tables is None else tables
    theirs = generate(
        model,
        inputs,
        num_beams,
        k,
        len(SIZES),
        end,
        prefix_allowed_tokens_fn=prefix_function(codes, tables, end, begin),
        **options,
    )
    search = gf.hf.trie_beam_search(trie, code_to_token=tables, engine=engine)
    ours = generate(model, inputs, num_beams, k, len(SIZES), end, custom_generate=search, **options)
    real = theirs.sequences_scores > -1e6  # Hugging Face fills up with beams of score -1e9
    assert torch.equal(real, ours.sequences_scores > -torch.inf)
    torch.testing.assert_close(ours.sequences_scores[real], theirs.sequences_scores[real], rtol=0, atol=1e-4)
    assert torch.equal(ours.sequences[real][:, : theirs.sequences.shape[1]], theirs.sequences[real])
    allowed = {tuple(int(tables[level][c]) for level, c in enumerate(row)) for row in codes.tolist()}
    for row, alive in zip(ours.sequences.tolist(), real.tolist(), strict=True):
        item = tuple(row[begin : begin + len(SIZES)])
        assert (item in allowed) if alive else set(item) == {0}
    return ours


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_beams_of_hugging_face(models, name, engine):
    compare(models(name), catalog(60), [9, 1, 14], 8, 5, 1, engine)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(FAMILIES),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    num_items=st.integers(1, 40),
    num_beams=st.sampled_from([1, 2, 3, 10, 60, 300]),
    end=st.sampled_from([None, 1]),
    penalty=st.sampled_from([1.0, 0.0, 2.0, -0.5]),
    stopping=st.sampled_from([False, True, "never"]),
    engine=st.sampled_from(["native", "torch"]),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_shapes_and_settings(models, name, lengths, num_items, num_beams, end, penalty, stopping, engine, shared, seed):
    codes = catalog(num_items, seed)
    if shared:
        codes = (codes * torch.tensor([0, 1, 1])).unique(dim=0).int()
    if num_beams == 1:  # Hugging Face takes its greedy loop, which has no scores of sequences
        model = models(name)
        inputs, begin = make_inputs(model, lengths), 1 if model.config.is_encoder_decoder else max(lengths)
        allowed = prefix_function(codes, tables_of(), end, begin)
        theirs = generate(model, inputs, 1, 1, 3, end, prefix_allowed_tokens_fn=allowed)
        search = gf.hf.trie_beam_search(gf.build_trie(codes, codebook_sizes=SIZES), OFFSET, engine=engine)
        assert torch.equal(generate(model, inputs, 1, 1, 3, end, custom_generate=search).sequences, theirs.sequences)
        return
    k = min(num_beams, 1 + seed % 7)
    compare(models(name), codes, lengths, num_beams, k, end, engine, length_penalty=penalty, early_stopping=stopping)


def test_one_item_and_one_shared_prefix(models):
    one = torch.tensor([[3, 2, 1]], dtype=torch.int32)
    compare(models("t5"), one, [5, 3], 4, 3, 1, "native")
    shared = torch.tensor([[3, 2, last] for last in range(6)], dtype=torch.int32)
    compare(models("qwen3"), shared, [5, 3], 4, 4, None, "native")


def test_tokens_anywhere_in_the_vocabulary(models):
    order = torch.randperm(VOCAB - 2, generator=torch.Generator().manual_seed(0)) + 2
    tables = [order[:7], order[7:12], order[12:18]]
    compare(models("llama"), catalog(50), [4, 9], 6, 6, 1, "native", tables=tables)
    compare(models("mt5"), catalog(50), [4, 9], 6, 6, None, "torch", tables=tables)


def test_processors_see_the_whole_vocabulary(models):
    options = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    for name in ("t5", "gpt2"):
        compare(models(name), catalog(60), [6, 11], 8, 4, 1, "native", **options)
    # Renormalised behind the mask, as Hugging Face does: the processor must see what the trie allows.
    compare(models("qwen3"), catalog(60), [6, 11], 8, 4, 1, "native", renormalize_logits=True)
    compare(models("mt5"), catalog(60), [6, 11], 8, 4, None, "torch", renormalize_logits=True)


@pytest.mark.parametrize("name", ["t5", "flan-t5", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_models_of_half_precision(name, dtype):
    """By torch Hugging Face's scores, but for how a CPU rounds 16 bits in products of another shape; natively, sums in
    float32, so close ones."""
    model, codes = make_model(name).to(dtype), catalog(60)
    inputs, begin = make_inputs(model, [9, 1, 14]), 14 if name == "qwen3" else 1
    trie, allowed = gf.build_trie(codes, codebook_sizes=SIZES), prefix_function(codes, tables_of(), 1, begin)
    theirs = generate(model, inputs, 10, 10, 3, 1, prefix_allowed_tokens_fn=allowed)
    ours = generate(model, inputs, 10, 10, 3, 1, custom_generate=gf.hf.trie_beam_search(trie, OFFSET, engine="torch"))
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(
        ours.sequences_scores, theirs.sequences_scores, rtol=0, atol=torch.finfo(torch.float16).eps
    )
    ours = generate(model, inputs, 10, 10, 3, 1, custom_generate=gf.hf.trie_beam_search(trie, OFFSET, engine="native"))
    both = 0  # what either rounding prunes, the other may find
    for user in range(3):
        here, one, two = slice(10 * user, 10 * user + 10), ours, theirs
        first = {tuple(row): s for row, s in zip(one.sequences[here].tolist(), one.sequences_scores[here], strict=True)}
        for row, score in zip(two.sequences[here].tolist(), two.sequences_scores[here], strict=True):
            if tuple(row) in first:
                both += 1
                torch.testing.assert_close(first[tuple(row)], score, rtol=0, atol=0.1)
    assert both >= 24


@pytest.mark.parametrize("name", ["t5", "mistral"])
def test_masks_with_holes_and_padding_on_either_side(models, name):
    model, codes = models(name), catalog(60)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]] if name == "mistral" else [[0, 1, 0, 1, 0], [1, 0, 1, 1, 1]])
    inputs = {"input_ids": torch.arange(3, 13).view(2, 5), "attention_mask": mask}
    begin = 1 if name == "t5" else 5
    allowed = prefix_function(codes, tables_of(), 1, begin)
    theirs = generate(model, inputs, 8, 5, 3, 1, prefix_allowed_tokens_fn=allowed)
    for engine in ("native", "torch"):
        search = gf.hf.trie_beam_search(gf.build_trie(codes, codebook_sizes=SIZES), OFFSET, engine=engine)
        ours = generate(model, inputs, 8, 5, 3, 1, custom_generate=search)
        assert torch.equal(ours.sequences, theirs.sequences)
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_slates_are_all_orders_of_the_items(models, engine):
    """Every sequence of two different items, each paid for token by token."""
    model, codes = models("llama"), torch.tensor([[3, 1, 0], [3, 1, 5], [6, 0, 2]])
    trie, inputs = gf.build_trie(codes, codebook_sizes=SIZES), make_inputs(model, [4])
    search = gf.hf.trie_beam_search(trie, OFFSET, engine=engine, prefix_tokens=[4], items_per_sequence=2)
    found = generate(model, inputs, 9, 9, 8, 1, custom_generate=search, length_penalty=0.0)
    alive = found.sequences_scores > -torch.inf
    rows = found.sequences[alive]
    texts = [[4, *item] for item in (codes + torch.tensor([20, 27, 32])).tolist()]
    wanted = {(*one, *two, 1) for one in texts for two in texts if one != two}
    assert {tuple(row) for row in rows[:, 4:].tolist()} == wanted and len(rows) == 6
    paid = model(rows).logits[:, 3:-1].log_softmax(-1).gather(2, rows[:, 4:].unsqueeze(2)).sum((1, 2))
    torch.testing.assert_close(found.sequences_scores[alive], paid, rtol=0, atol=2e-4)


def test_without_a_dict_sequences_are_returned(models):
    model, trie = models("qwen2"), gf.build_trie(catalog(30), codebook_sizes=SIZES)
    inputs = make_inputs(model, [3, 7])
    search = gf.hf.trie_beam_search(trie, token_offset=OFFSET)
    found = model.generate(
        **inputs, num_beams=5, num_return_sequences=2, max_new_tokens=3, eos_token_id=None, custom_generate=search
    )
    assert found.shape == (4, 10)


def test_the_processor_masks_like_a_prefix_function(models):
    for name, begin in (("t5", 1), ("llama", 9)):
        model, codes = models(name), catalog(40)
        trie, inputs = gf.build_trie(codes, codebook_sizes=SIZES), make_inputs(model, [9, 4])
        theirs = generate(
            model, inputs, 6, 4, 3, 1, prefix_allowed_tokens_fn=prefix_function(codes, tables_of(), 1, begin)
        )
        processor = gf.hf.TrieLogitsProcessor(trie, token_offset=OFFSET, prompt_length=begin, eos_token_id=1)
        ours = generate(model, inputs, 6, 4, 3, 1, logits_processor=[processor])
        assert torch.equal(ours.sequences, theirs.sequences)
        assert torch.equal(ours.sequences_scores, theirs.sequences_scores)


@pytest.mark.parametrize("name", ["t5", "qwen3"])
def test_compiled_models_recommend_items(models, name):
    model, codes = models(name), catalog(60)
    doubled = torch.cat([codes, codes[:5]])  # five items share their semantic ID with another
    trie = gf.build_trie(doubled, codebook_sizes=SIZES)
    inputs = make_inputs(model, [9, 1, 14])
    found = gf.hf.compile(model, trie, token_offset=OFFSET)
    wide = found.recommend(inputs["input_ids"], 10, num_beams=60, attention_mask=inputs["attention_mask"])
    assert bool(wide.exact.all())
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    assert torch.equal(found.recommend(rows, 10, num_beams=60).items, wide.items)
    assert torch.equal(doubled[wide.items], wide.codes)
    theirs = generate(
        model,
        inputs,
        60,
        10,
        3,
        None,
        prefix_allowed_tokens_fn=prefix_function(codes, tables_of(), None, 1 if name == "t5" else 14),
        length_penalty=0.0,
    )
    best = theirs.sequences_scores.view(3, 10)[:, 0]
    torch.testing.assert_close(wide.scores[:, 0], best, rtol=0, atol=1e-4)
    banned = gf.Jagged.from_rows([row[:2].tolist() for row in wide.items])
    without = found.recommend(rows, 8, num_beams=60, exclude=banned)
    assert torch.equal(without.items[:, :8], wide.items[:, 2:]) or bool((wide.scores[:, 1] == wide.scores[:, 2]).any())
    only = torch.zeros(doubled.shape[0], dtype=torch.bool)
    only[[3, 50]] = True
    few = found.recommend(rows, 4, allowed=only)
    assert all(set(row.tolist()) == {3, 50, -1} for row in few.items)


def test_valid_normalisation_and_torch_agree(models):
    trie = gf.build_trie(catalog(60), codebook_sizes=SIZES)
    rows = [[5, 6, 7], [8, 9, 10, 11]]
    for name in ("mt5", "mistral"):
        one, two = (
            gf.hf.compile(models(name), trie, token_offset=OFFSET, engine=engine, normalize="valid")
            for engine in ("native", "torch")
        )
        a, b = one.recommend(rows, 5), two.recommend(rows, 5)
        assert torch.equal(a.items, b.items)
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)


def test_items_behind_a_fixed_text_and_several_of_them(models):
    model, codes = models("qwen3"), catalog(8)
    trie = gf.build_trie(codes, codebook_sizes=SIZES)
    inputs = make_inputs(model, [6, 6])
    search = gf.hf.trie_beam_search(trie, token_offset=OFFSET, prefix_tokens=[3, 4], items_per_sequence=2)
    found = generate(model, inputs, 12, 12, 10, None, custom_generate=search)
    tail = found.sequences[:, 6:]
    assert bool((tail[:, [0, 5]] == 3).all()) and bool((tail[:, [1, 6]] == 4).all())
    first, second = tail[:, 2:5], tail[:, 7:]
    assert not bool((first == second).all(1).any())
    valid = {tuple(row) for row in (codes + torch.tensor([20, 27, 32])).tolist()}
    assert all(tuple(row) in valid for part in (first, second) for row in part.tolist())
    logits = model(input_ids=found.sequences[:3], attention_mask=torch.ones(3, 16)).logits.log_softmax(-1)
    written = found.sequences[:3, 6:]
    paid = logits[:, 5:-1].gather(2, written.unsqueeze(2)).sum((1, 2)) / 10
    torch.testing.assert_close(found.sequences_scores[:3], paid, rtol=0, atol=1e-4)


def test_other_models_fall_back_and_say_so(models, monkeypatch):
    import transformers

    monkeypatch.setattr("genrec_fast.nn.native._said", set())  # another test may have heard it
    torch.manual_seed(0)
    settings = {"vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.GPTNeoXConfig(**settings, intermediate_size=40, eos_token_id=1, bos_token_id=1)
    model = transformers.GPTNeoXForCausalLM(config).eval()
    with pytest.warns(SlowPathWarning, match="torch's modules run in its place"):
        compare(model, catalog(60), [9, 1, 14], 8, 5, 1, "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowPathWarning)
        compare(model, catalog(60), [9, 1, 14], 8, 5, 1, "auto")
    with pytest.raises(UnsupportedError, match="must be one of t5"):
        compare(model, catalog(60), [3], 2, 2, 1, "native")


def test_weights_that_change_are_packed_again(models):
    model = make_model("llama", seed=5)
    before = compare(model, catalog(60), [4, 5], 5, 3, 1, "native")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(-1)
    after = compare(model, catalog(60), [4, 5], 5, 3, 1, "native")
    assert not torch.equal(before.sequences_scores, after.sequences_scores)


def test_what_does_not_fit_is_named(models):
    model, trie = models("llama"), gf.build_trie(catalog(9), codebook_sizes=SIZES)
    inputs = make_inputs(model, [4])
    with pytest.raises(InvalidTypeError, match="trie must be a Trie"):
        gf.hf.trie_beam_search([[1, 2]])
    with pytest.raises(InvalidValueError, match="engine must be"):
        gf.hf.trie_beam_search(trie, engine="gpu")
    with pytest.raises(InvalidValueError, match=r"must hold tokens in \[0, 61\), the vocabulary, got 66"):
        gf.hf.compile(model, trie, token_offset=49)
    with pytest.raises(InvalidValueError, match="got 5 twice"):
        gf.hf.compile(model, trie, code_to_token=[[5] * 7, range(5), range(6)])
    with pytest.raises(InvalidValueError, match="max_new_tokens must be at least 3"):
        generate(model, inputs, 2, 1, 2, None, custom_generate=gf.hf.trie_beam_search(trie, token_offset=OFFSET))
    compiled = gf.hf.compile(model, trie, token_offset=OFFSET)
    with pytest.raises(InvalidValueError, match="histories must not be empty, but row 1 is"):
        compiled.recommend([[1], []])
    with pytest.raises(InvalidValueError, match=r"must hold tokens in \[0, 61\), got 61"):
        compiled.recommend([[5, 61]])
    with pytest.raises(InvalidValueError, match="k must be at least 1, got 0"):
        compiled.recommend([[5]], 0)
    with pytest.raises(InvalidTypeError, match="prompts must be lists"):
        compiled.recommend([["a"]])
    assert compiled.recommend([], 3).items.shape == (0, 3)


_BART = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "bos_token_id": 2,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
_OTHERS = {
    "Bart": ("ForConditionalGeneration", _BART),
    "Bloom": ("ForCausalLM", {"hidden_size": 24, "n_layer": 2, "n_head": 3}),
    "Gemma2": (
        "ForCausalLM",
        {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": 4,
        },
    ),
    "OPT": ("ForCausalLM", {"hidden_size": 24, "num_hidden_layers": 2, "ffn_dim": 40, "num_attention_heads": 3}),
}


@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
@pytest.mark.parametrize("kind", _OTHERS)
def test_models_that_torch_runs_give_the_beams_of_hugging_face(kind):
    """Learned positions with an offset, ALiBi, windows in every other layer, another encoder-decoder."""
    import transformers

    head, settings = _OTHERS[kind]
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB, "pad_token_id": 0, "eos_token_id": 1}
    config = getattr(transformers, f"{kind}Config")(**{"bos_token_id": 1, **common, **settings})
    model = getattr(transformers, kind + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4 if parameter.dim() > 1 else 1
    compare(model, catalog(60), [9, 1, 14], 8, 5, 1, "auto")

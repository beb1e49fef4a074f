"""What the drop-in is given beside prompts: settings of generate, histories of items, fillers."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError

pytest.importorskip("transformers")

from integrations.models import VOCAB, generate, make_inputs, make_model, prefix_function

SIZES = (4, 3)
CODES = torch.tensor([[0, 0], [0, 2], [3, 1]])


@pytest.fixture(scope="module")
def t5():
    return make_model("t5")


@pytest.fixture(scope="module")
def llama():
    return make_model("llama")


@pytest.fixture(scope="module")
def trie():
    return gf.build_trie(CODES, codebook_sizes=SIZES)


@pytest.mark.parametrize(("offset", "filler"), [(2, 0), (0, 1)])
def test_rows_without_an_item_never_read_as_one(t5, trie, offset, filler):
    """Padding 0 and end 1: whichever of them is a code's token does not fill rows."""
    tables = [list(range(offset, offset + 4)), list(range(offset + 4, offset + 7))]
    if offset == 0:
        tables[0][1] = 50  # 0 is a code's token, 1 is none
    search = gf.hf.trie_beam_search(trie, code_to_token=tables)
    found = generate(t5, make_inputs(t5, [3, 6]), 7, 5, 2, 1, custom_generate=search)
    alive = (found.sequences_scores > -torch.inf).view(2, 5)
    assert alive.tolist() == [[True] * 3 + [False] * 2] * 2
    rows = found.sequences.view(2, 5, 4)
    items = {tuple(tables[level][c] for level, c in enumerate(row)) for row in CODES.tolist()}
    for user in rows[:, :3, 1:3].tolist():
        assert {tuple(row) for row in user} == items
    assert bool((rows[:, 3:, 1:] == filler).all())


def test_an_end_token_inside_an_item_is_refused(t5, trie):
    """generate would end there, in the middle of an item; a code that no item has is never written."""
    inputs = make_inputs(t5, [3, 6])
    for end, place in ((1, "code 0 of level 0"), ([60, 5], "code 0 of level 1")):
        with pytest.raises(InvalidValueError, match=f"eos_token_id must be no token of an item, .* got .*{place}"):
            generate(t5, inputs, 4, 2, 2, end, custom_generate=gf.hf.trie_beam_search(trie, 1))
    with pytest.raises(InvalidValueError, match="eos_token_id must be no token of an item, got 9 of prefix_tokens"):
        generate(t5, inputs, 4, 2, 3, 9, custom_generate=gf.hf.trie_beam_search(trie, 20, prefix_tokens=[9]))
    unused = next(code for code in range(4) if code not in CODES[:, 0])
    search = gf.hf.trie_beam_search(trie, 20)
    found = generate(t5, inputs, 3, 2, 2, 20 + unused, custom_generate=search)
    assert bool((found.sequences[:, -1] == 20 + unused).all())


def test_every_token_of_the_map_taken_leaves_minus_one(t5, trie):
    search = gf.hf.trie_beam_search(trie, code_to_token=[[0, 1, 2, 3], [4, 5, 6]])
    found = generate(t5, make_inputs(t5, [3]), 4, 4, 2, None, custom_generate=search)
    assert found.sequences[3].tolist() == [0, -1, -1]


def test_codes_that_no_item_has_need_no_token(llama):
    trie = gf.build_trie(CODES, codebook_sizes=SIZES)
    vocabulary = {"<a_0>": 9, "<a_3>": 5, "<b_0>": 3, "<b_1>": 7, "<b_2>": 8}
    tables = gf.hf.tokens_from_tokenizer(vocabulary, trie)
    inputs = make_inputs(llama, [4, 2])
    allowed = prefix_function(CODES, [table.tolist() for table in tables.of], 1, 4)
    theirs = generate(llama, inputs, 3, 3, 2, 1, prefix_allowed_tokens_fn=allowed)
    for engine in ("native", "torch"):
        search = gf.hf.trie_beam_search(trie, 0, tables, engine=engine)
        ours = generate(llama, inputs, 3, 3, 2, 1, custom_generate=search)
        assert torch.equal(ours.sequences, theirs.sequences)
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=0, atol=1e-4)


def test_settings_that_would_be_left_out_are_refused(llama, t5, trie):
    search = gf.hf.trie_beam_search(trie, 20)
    inputs = make_inputs(llama, [4, 2])

    def run(model=llama, given=inputs, **options):
        return generate(model, given, 3, 2, 2, None, custom_generate=search, **options)

    with pytest.raises(InvalidValueError, match="do_sample must be False, got True"):
        llama.generate(**inputs, num_beams=3, do_sample=True, max_new_tokens=2, custom_generate=search)
    with pytest.raises(UnsupportedError, match="output_attentions must be False"):
        run(output_attentions=True)
    with pytest.raises(UnsupportedError, match="max_time must be None or False: a search ends with its items"):
        run(max_time=3.0)
    with pytest.raises(UnsupportedError, match="position_ids must count the tokens of each prompt from 0"):
        run(position_ids=torch.arange(4).expand(2, -1) + 3)
    embedded = llama.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(UnsupportedError, match="inputs_embeds must be None"):
        run(given={"inputs_embeds": embedded, "attention_mask": inputs["attention_mask"]})
    with pytest.raises(InvalidValueError, match="items_per_sequence must be at least 1, got 0"):
        gf.hf.trie_beam_search(trie, items_per_sequence=0)
    with pytest.raises(InvalidTypeError, match=r"items_per_sequence must be an int, got 1\.5"):
        gf.hf.trie_beam_search(trie, items_per_sequence=1.5)
    with pytest.raises(InvalidTypeError, match="k must be an int, got '3'"):
        gf.hf.compile(llama, trie, 20).recommend([[3]], "3")
    with pytest.raises(InvalidTypeError, match="prefix_tokens must be token ids, got str"):
        gf.hf.trie_beam_search(trie, prefix_tokens="<|sid_begin|>")
    with pytest.raises(InvalidValueError, match=r"prefix_tokens must be in \[0, 61\), got 61"):
        gf.hf.compile(llama, trie, 20, prefix_tokens=[61])
    with pytest.raises(InvalidValueError, match=r"decoder_start_tokens must have a token, got none"):
        gf.hf.compile(t5, trie, 20, decoder_start_tokens=[])


def test_several_start_tokens_of_a_decoder(t5, trie):
    inputs = {**make_inputs(t5, [3, 5]), "decoder_input_ids": torch.tensor([[0, 7, 8], [0, 9, 9]])}
    tables = [range(20, 24), range(24, 27)]
    theirs = generate(t5, inputs, 3, 2, 2, 1, prefix_allowed_tokens_fn=prefix_function(CODES, tables, 1, 3))
    for engine in ("native", "torch"):
        ours = generate(t5, inputs, 3, 2, 2, 1, custom_generate=gf.hf.trie_beam_search(trie, 20, engine=engine))
        assert torch.equal(ours.sequences, theirs.sequences)
        torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_histories_of_items_become_prompts(name, t5, llama, trie):
    model = {"t5": t5, "llama": llama}[name]
    plain = gf.hf.compile(model, trie, 20)
    found = gf.hf.compile(model, trie, 20, reads="items", before=[5], after=[1]).recommend([[2, 0], [], [1]], 3)
    same = plain.recommend([[5, 23, 25, 20, 24, 1], [5, 1], [5, 20, 26, 1]], 3)
    assert torch.equal(found.items, same.items) and torch.equal(found.scores, same.scores)
    with pytest.raises(InvalidValueError, match=r"histories must hold item ids in \[0, 3\), got 3"):
        gf.hf.compile(model, trie, 20, reads="items").recommend([[1, 3]], 2)
    with pytest.raises(InvalidValueError, match="histories must not be empty, but row 0 is"):
        gf.hf.compile(model, trie, 20, reads="items").recommend([[]], 2)
    with pytest.raises(InvalidValueError, match="reads must be 'tokens' or 'items', got 'text'"):
        gf.hf.compile(model, trie, 20, reads="text")
    with pytest.raises(InvalidValueError, match="before and after must be empty but for reads='items'"):
        gf.hf.compile(model, trie, 20, after=[1])


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_prompts_of_other_kinds_are_refused(llama, trie, engine):
    compiled = gf.hf.compile(llama, trie, 20, engine=engine)
    with pytest.raises(InvalidTypeError, match="prompts must be lists of token ids"):
        compiled.recommend([[1.5]])
    with pytest.raises(InvalidTypeError, match=r"prompts must be int64 \[E\], got torch.float32"):
        compiled.recommend(gf.Jagged(torch.ones(2), torch.tensor([0, 2])))
    with pytest.raises(InvalidTypeError, match=r"prompts must be int64 \[B, S\], got torch.int32"):
        compiled.recommend(torch.ones(2, 2, dtype=torch.int32))
    with pytest.raises(InvalidTypeError, match="attention_mask must be a tensor, got list"):
        compiled.recommend(torch.ones(1, 2, dtype=torch.int64), attention_mask=[[1, 1]])
    with pytest.raises(InvalidValueError, match=r"attention_mask must be \[1, 2\], got \[1, 3\]"):
        compiled.recommend(torch.ones(1, 2, dtype=torch.int64), attention_mask=torch.ones(1, 3))
    with pytest.raises(InvalidValueError, match=rf"must hold tokens in \[0, {VOCAB}\), got -1"):
        compiled.recommend([[2, -1]])


@pytest.mark.parametrize("call", ["compile", "trie_beam_search"])
def test_options_of_how_items_are_written_are_checked_in_one_place(llama, trie, call):
    def run(**options):
        return (
            gf.hf.compile(llama, trie, 20, **options) if call == "compile" else gf.hf.trie_beam_search(trie, **options)
        )

    known = "engine, dtype, normalize, prefix_tokens"
    for options, error, message in (
        ({"normalise": "all"}, InvalidTypeError, f"{call}: options are {known}, got normalise"),
        ({"normalize": "none"}, InvalidValueError, f"{call}: normalize must be 'all' or 'valid', got 'none'"),
        ({"engine": "gpu"}, InvalidValueError, f"{call}: engine must be 'auto', 'native' or 'torch', got 'gpu'"),
        ({"prefix_tokens": [-1]}, InvalidValueError, f"{call}: prefix_tokens must be at least 0, got -1"),
    ):
        with pytest.raises(error) as raised:
            run(**options)
        assert str(raised.value) == message


@pytest.mark.parametrize("dtype", ["1", "float16", torch.float64])
def test_a_form_that_is_none_is_named(llama, trie, dtype):
    with pytest.raises(InvalidValueError, match="dtype must be 'float32', 'bfloat16' or 'int8', got"):
        gf.hf.compile(llama, trie, token_offset=2, engine="native", dtype=dtype)

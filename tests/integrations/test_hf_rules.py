"""Draws and groups of beams behind ``generate`` and ``compile``."""

from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

pytest.importorskip("transformers")

from integrations.models import generate, make_inputs, make_model

SIZES, OFFSET = (7, 5, 6), 20
PROMPTS = [[5, 9, 11], [7], [30, 31, 32, 33, 8]]


@pytest.fixture(scope="module", params=["t5", "qwen3"])
def model(request):
    return make_model(request.param)


def catalog():
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(0, size, (60,), generator=generator) for size in SIZES], 1).unique(dim=0)
    return gf.build_trie(codes.int(), codebook_sizes=SIZES)


def recommender(model, normalize="valid", engine="native"):
    return gf.hf.compile(model, catalog(), token_offset=OFFSET, normalize=normalize, engine=engine)


def test_a_draw_is_of_valid_items_with_their_probabilities(model):
    ours, trie = recommender(model), catalog()
    everything = ours.recommend(PROMPTS, k=trie.num_items, num_beams=trie.num_items)
    drawn = ours.recommend(PROMPTS, k=8, num_beams=8, seed=3)
    for user in range(len(PROMPTS)):
        assert drawn.items[user].unique().numel() == 8
        places = [everything.items[user].tolist().index(item) for item in drawn.items[user].tolist()]
        torch.testing.assert_close(drawn.scores[user], everything.scores[user][places], rtol=0, atol=1e-4)
    assert not bool(drawn.exact.any())
    wide = ours.recommend(PROMPTS, k=8, num_beams=40, seed=3)
    assert torch.equal(wide.items, drawn.items)
    assert not torch.equal(ours.recommend(PROMPTS, k=8, seed=4).items, drawn.items)
    alone = ours.recommend(PROMPTS[1:2], k=8, seed=3)
    assert torch.equal(alone.items[0], drawn.items[1])
    by_torch = recommender(model, engine="torch").recommend(PROMPTS, k=8, seed=3)
    assert torch.equal(by_torch.items, drawn.items)


def test_a_filter_holds_in_a_draw(model):
    trie = catalog()
    allowed = torch.rand(len(PROMPTS), trie.num_items, generator=torch.Generator().manual_seed(1)) < 0.2
    found = recommender(model).recommend(PROMPTS, k=30, seed=0, allowed=allowed)
    for user in range(len(PROMPTS)):
        shown = found.items[user][found.items[user] >= 0]
        assert torch.equal(shown.sort().values, allowed[user].nonzero().squeeze(1))


@pytest.mark.parametrize("normalize", ["all", "valid"])
def test_groups_keep_apart_and_scores_carry_no_penalty(model, normalize):
    ours, trie = recommender(model, normalize), catalog()
    everything = ours.recommend(PROMPTS, k=trie.num_items, num_beams=trie.num_items)
    found = ours.recommend(PROMPTS, k=12, num_beams=12, num_groups=6, diversity_penalty=100.0)
    plain = ours.recommend(PROMPTS, k=12, num_beams=12)
    for user in range(len(PROMPTS)):
        assert found.items[user].unique().numel() == 12
        places = [everything.items[user].tolist().index(item) for item in found.items[user].tolist()]
        torch.testing.assert_close(found.scores[user], everything.scores[user][places], rtol=0, atol=1e-4)
        assert bool((found.scores[user].diff() <= 0).all())
        assert found.codes[user, :, 0].unique().numel() >= plain.codes[user, :, 0].unique().numel()
    assert ours.recommend(PROMPTS, k=51, num_groups=4).items.shape == (3, 51)  # a width of 52


def test_generate_draws_and_groups(model):
    trie = catalog()
    inputs = make_inputs(model, [4, 2])
    begin = 1 if model.config.is_encoder_decoder else 4
    items = {tuple(row) for row in (_codes(trie) + torch.tensor([20, 27, 32])).tolist()}
    for options in ({"normalize": "valid", "seed": 1}, {"num_groups": 3, "diversity_penalty": 0.5}):
        for end in (None, 1):
            search = gf.hf.trie_beam_search(trie, OFFSET, **options)
            out = generate(model, inputs, 6, 6, 3, end, custom_generate=search)
            rows = [tuple(row[begin : begin + 3]) for row in out.sequences.tolist()]
            alive = (out.sequences_scores > -torch.inf).tolist()
            assert "num_groups" in options or all(alive)  # a group whose prefixes others emptied has fewer
            for user in (slice(0, 6), slice(6, 12)):
                found = [row for row, lives in zip(rows[user], alive[user], strict=True) if lives]
                assert set(found) <= items and len(set(found)) == len(found) >= 2
            assert all(set(row) == {0} for row, lives in zip(rows, alive, strict=True) if not lives)


def _codes(trie):
    return trie.item_codes()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seed": 1.5}, InvalidTypeError, r"trie_beam_search: seed must be an int or None, got 1\.5"),
        ({"seed": True}, InvalidTypeError, "seed must be an int or None, got True"),
        ({"seed": 1 << 63}, InvalidValueError, "seed must fit 64 bits"),
        ({"seed": 1, "normalize": "all"}, InvalidValueError, "normalize must be 'valid' where a seed draws the beams"),
        ({"seed": 1, "num_groups": 2}, InvalidValueError, "num_groups must be 1 where a seed draws the beams, got 2"),
        ({"num_groups": 0}, InvalidValueError, "num_groups must be at least 1, got 0"),
        ({"num_groups": 2.0}, InvalidTypeError, "num_groups must be an int"),
        ({"diversity_penalty": -1}, InvalidValueError, "diversity_penalty must be at least 0 and finite, got -1"),
        ({"diversity_penalty": float("nan")}, InvalidValueError, "diversity_penalty must be at least 0 and finite"),
        ({"num_groups": 2, "items_per_sequence": 2}, InvalidValueError, "items_per_sequence must be 1 with a seed or"),
    ],
)
def test_messages(options, error, text):
    with pytest.raises(error, match=text):
        gf.hf.trie_beam_search(catalog(), OFFSET, **{"normalize": "valid", **options})


def test_beams_must_fill_the_groups(model):
    with pytest.raises(InvalidValueError, match="recommend: num_beams must be a multiple of num_groups = 4, got 6"):
        recommender(model).recommend(PROMPTS, k=3, num_beams=6, num_groups=4)

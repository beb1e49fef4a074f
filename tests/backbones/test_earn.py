from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from genrec_fast.backbones import EarnConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.decoders import BeamConfig, BestFirstConfig, SpeculativeConfig
from shared.backbone_suite import LastTarget, ReadsCodes, SearchedSuite, batch_of, likeliest_of_all
from shared.catalogs import sized

CONFIG = EarnConfig(width=16, num_heads=2, num_layers=3, num_history_layers=2, hidden=24, dropout=0.0, max_items=6)


class TestEarn(LastTarget, ReadsCodes, SearchedSuite):
    config = CONFIG
    op = "earn"


class TestReadByOneLayer(SearchedSuite):
    """The layer that makes the history's keys and values makes nothing else of it, and no layer is before it."""

    config = dataclasses.replace(CONFIG, num_history_layers=1)
    targets = "last"


def test_history_layers_are_layers():
    with pytest.raises(InvalidValueError, match="EarnConfig: num_history_layers must be at most num_layers = 3, got 4"):
        dataclasses.replace(CONFIG, num_history_layers=4)
    with pytest.raises(InvalidValueError, match="EarnConfig: num_history_layers must be at least 1, got 0"):
        dataclasses.replace(CONFIG, num_history_layers=0)


def parts(layers):
    case = TestEarn()
    case.config = dataclasses.replace(CONFIG, num_history_layers=layers)
    return case.parts()


def dense(backbone, codes, target):
    """One user's logits, all tokens through all layers: behind layer k nobody sees a token of the history."""
    codes, levels = (codes + backbone.level_offsets).flatten(), len(backbone.codebook_sizes)
    read = backbone.codes.weight[codes] + backbone.positions.weight[: len(codes)].flip(0)
    written = backbone.codes.weight[(target + backbone.level_offsets)[:-1]] + backbone.behind.weight[1:]
    x = torch.cat([backbone.first[None], read, backbone.behind.weight[:1], written])
    tokens, heads = len(x), CONFIG.num_heads
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    history = (torch.arange(tokens) > 0) & (torch.arange(tokens) <= len(codes))
    for number, block in enumerate(backbone.blocks):
        mask = causal if number < backbone.config.num_history_layers else causal & ~history
        mask = mask | torch.eye(tokens, dtype=torch.bool)  # what a token of the history makes there is read by nobody
        split = block.qkv(block.attention_norm(x)).view(tokens, 3, heads, -1)
        queries, keys, values = split.permute(1, 2, 0, 3)
        weights = (queries @ keys.mT / queries.shape[2] ** 0.5).masked_fill(~mask, -torch.inf).softmax(2)
        x = x + block.attention_out((weights @ values).transpose(0, 1).flatten(1))
        x = x + block.mlp_out(block.mlp_in(block.mlp_norm(x)).relu())
    states = backbone.norm(x)[-levels:]
    return [head(state) for head, state in zip(backbone.heads, states, strict=True)]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_is_a_transformer_whose_history_is_hidden_behind_layer_k(layers):
    """With all three layers: the plain transformer, of which nothing is hidden."""
    layout, backbone = parts(layers)
    batch = layout(batch_of([3, 1, 6]))
    found = backbone.level_logits(batch)
    for user, (start, end) in enumerate(itertools.pairwise(batch.items.offsets.tolist())):
        wanted = dense(backbone, batch.codes[start:end], batch.target_codes[user])
        for level, logits in enumerate(wanted):
            torch.testing.assert_close(found[level][user], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_a_search_keeps_of_the_histories(layers):
    """Keys and values of S L + 1 tokens in k layers, in place of all, before and behind a code."""
    layout, backbone = parts(layers)
    batch = layout(batch_of([6, 0, 3]))
    session = backbone.prefill(batch)
    later = session.extend(torch.tensor([[1, 2]] * 3), torch.zeros(3, 2, dtype=torch.int64))
    for kept, codes in ((session, 1), (later, 3)):
        assert [tuple(keys.shape) for keys, _ in kept.prompts] == [(9 * 3 + 3, 2, 8)] * layers
        assert [tuple(keys.shape) for keys, _ in kept.known] == [(3, codes, 2, 8)] * 3


def test_every_search_finds_the_best_of_all():
    """Trees of rows, behind a draft, and level by level: the ten likeliest of 20 items by the whole passes of each."""
    backbone, batch, trie, wanted = likeliest_of_all(CONFIG)
    draft = SimpleNamespace(backbone=CONFIG.build(sized((4, 4, 4), 20)).eval(), batch=lambda asked: asked)
    drafted = SpeculativeConfig(num_beams=20).build().drafted_by(draft)
    for decoder in (BeamConfig(num_beams=20).build(), BestFirstConfig().build(), drafted):
        found = decoder.search(backbone, batch, trie, 10)
        assert bool(found.exact.all())
        assert torch.equal(found.items, wanted.indices)
        torch.testing.assert_close(found.scores, wanted.values, rtol=1e-5, atol=1e-5)

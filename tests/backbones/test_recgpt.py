from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import RecGPTConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import BeamConfig
from shared.backbone_suite import SIZES, ReadsCodes, SearchedSuite, batch_of

CONFIG = RecGPTConfig(width=16, num_heads=2, num_layers=2, hidden=24, dropout=0.0, max_items=6)


class TestRecGPT(ReadsCodes, SearchedSuite):
    config = CONFIG
    op = "recgpt"


class TestFeatures(SearchedSuite):
    config = CONFIG
    features = True


def test_what_is_read_of_a_code():
    layout, backbone = TestFeatures().parts()
    batch = layout(batch_of([2]))
    found = backbone._tokens(batch)
    for item in range(2):
        for level in range(3):
            part = batch.features[item, 2 * level : 2 * level + 2]  # 6 features, 3 levels
            code = backbone.codes.weight[batch.codes[item, level]]
            wanted = backbone.code_norm(code) + backbone.feature_norm(part @ backbone.features.weight.T)
            torch.testing.assert_close(found[item, level], wanted)


def test_codes_see_their_item_and_those_before_it():
    """The stack by hand, code by code, with a mask written as the sentence says it."""
    layout, backbone = TestRecGPT().parts()
    batch = layout(batch_of([3, 1]))
    found, tokens = backbone._states(batch), backbone._tokens(batch)
    for first, length in ((0, 3), (3, 1)):
        x = tokens[first : first + length].flatten(0, 1) + backbone.positions.weight[: 3 * length]
        for block in backbone.blocks:
            q, k, v = block.qkv(block.attention_norm(x)).view(-1, 3, 2, 8).permute(1, 2, 0, 3)
            rows = []
            for token in range(3 * length):
                seen = 3 * (token // 3 + 1)  # all codes up to the last of its item
                weights = (torch.einsum("hd,hnd->hn", q[:, token], k[:, :seen]) / 8**0.5).softmax(1)
                rows.append(torch.einsum("hn,hnd->hd", weights, v[:, :seen]).flatten())
            x = x + block.out(torch.stack(rows))
            x = x + block.mlp_out(F.gelu(block.mlp_in(block.mlp_norm(x)), approximate="tanh"))
        torch.testing.assert_close(found[first : first + length].flatten(0, 1), backbone.norm(x), rtol=1e-4, atol=1e-5)


def test_a_search_gives_the_sum_of_the_levels():
    """Logits of a level are the same for every beam: the best item is the best sum."""
    layout, backbone = TestRecGPT().parts()
    batch = layout(Batch(Jagged.from_rows([[3, 1, 4], [5]])))
    top = BeamConfig(num_beams=30).build().search(backbone, batch, layout.catalog.trie, 3)
    logits = [level.scores()[0][:, 0].log_softmax(1) for level in levels_of(backbone.prefill(batch))]
    codes = layout.item_codes.long()
    sums = torch.stack([logits[level][:, codes[:, level]] for level in range(len(SIZES))]).sum(0)
    torch.testing.assert_close(top.scores, sums.topk(3, 1).values, rtol=0, atol=1e-5)


def levels_of(session):
    none = torch.zeros(2, 1, dtype=torch.int32)
    for _ in SIZES[1:]:
        yield session
        session = session.extend(none, none)
    yield session


def test_heads_divide_the_width():
    with pytest.raises(InvalidValueError, match="RecGPTConfig"):
        dataclasses.replace(CONFIG, num_heads=3)

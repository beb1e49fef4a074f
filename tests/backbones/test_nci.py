from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import NCIConfig
from genrec_fast.base.errors import InvalidValueError
from shared.backbone_suite import SIZES, SearchedSuite, batch_of

CONFIG = NCIConfig(
    width=16,
    num_heads=2,
    head_width=8,
    num_layers=1,
    hidden=32,
    dropout=0.0,
    num_user_tokens=0,
    max_items=6,
    adaptor_layers=2,
    adaptor_heads=2,
    adaptor_hidden=24,
)


class TestNCI(SearchedSuite):
    config = CONFIG
    targets = "last"


def test_the_head_is_made_of_the_prefix():
    """Every code's weights are its own row and a matrix times what the adaptor made of the codes before."""
    layout, backbone = TestNCI().parts()
    batch = layout(batch_of([4]))
    states = backbone.level_states(batch)[0]
    tokens = torch.tensor(
        [backbone.start_token, *(batch.target_codes[0, :-1] + torch.tensor(backbone.level_offsets[:2]))]
    )
    x = backbone.tokens(tokens)
    for layer in backbone.adaptor:
        q, k, v = layer.qkv(x).view(3, 3, 2, 8).permute(1, 2, 0, 3)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(3, 16)
        x = layer.given_norm(layer.own_norm(x + layer.out(seen)) + layer.given)
        x = layer.mlp_norm(x + layer.mlp_out(F.relu(layer.mlp_in(x))))
    torch.testing.assert_close(states[:, 16:], x, rtol=1e-4, atol=1e-5)
    for level, logits in enumerate(backbone.level_logits(batch)):
        begin = backbone.level_offsets[level]
        for code in range(SIZES[level]):
            weight = backbone.head.weight[begin + code] + backbone.adapted[begin + code] @ x[level]
            torch.testing.assert_close(logits[0, code], states[level, :16] @ weight, rtol=1e-4, atol=1e-5)


def test_heads_divide_the_width():
    with pytest.raises(InvalidValueError, match="NCIConfig: adaptor_heads must divide width = 16, got 3"):
        dataclasses.replace(CONFIG, adaptor_heads=3)

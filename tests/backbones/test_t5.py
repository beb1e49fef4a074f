from __future__ import annotations

import torch

from baselines import hf_t5
from genrec_fast.backbones import T5Config
from shared.autoregressive_suite import AutoregressiveSuite
from shared.backbone_suite import SIZES, LastTarget, batch_of


class TestT5(LastTarget, AutoregressiveSuite):
    op = "t5"
    config = T5Config(
        width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, dropout=0.0, num_user_tokens=3, max_items=6
    )


def test_network_equals_transformers():
    """The whole network against Hugging Face's T5 with the same weights, cut to each level's codes."""
    suite = TestT5()
    layout, ours = suite.parts()
    hf = hf_t5(ours)
    batch = layout(batch_of([6]))
    offsets = torch.tensor(ours.level_offsets[:-1])
    user, end = torch.tensor([ours.end_token + 1]), torch.tensor([ours.end_token])
    tokens = torch.cat([user, (batch.codes + offsets).flatten(), end])[None]
    written = torch.cat([torch.tensor([ours.start_token]), batch.target_codes[0, :-1] + offsets[:-1]])[None]
    with torch.no_grad():
        theirs = hf(input_ids=tokens, decoder_input_ids=written).logits[0]
        for level, logits in enumerate(ours.level_logits(batch)):
            begin = ours.level_offsets[level]
            torch.testing.assert_close(logits[0], theirs[level, begin : begin + SIZES[level]], rtol=1e-4, atol=1e-4)


class TestTied(AutoregressiveSuite):
    config = T5Config(
        width=16,
        num_heads=2,
        head_width=8,
        num_layers=1,
        hidden=32,
        dropout=0.0,
        num_user_tokens=0,
        max_items=6,
        tied=True,
    )
    targets = "last"

    def test_the_head_is_the_embeddings_scaled(self):
        _, backbone = self.parts()
        hidden = torch.randn(3, 16)
        begin, end = backbone.level_offsets[1:3]
        wanted = hidden @ backbone.tokens.weight[begin:end].T / 4
        torch.testing.assert_close(backbone.logits(hidden, 1), wanted)
        assert "head.weight" not in backbone.state_dict()

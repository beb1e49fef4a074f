from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import T5Config
from genrec_fast.errors import InvalidValueError
from genrec_fast.nn.t5 import RelativePositionBias
from shared.backbone_suite import SIZES, AutoregressiveSuite, batch_of


class TestT5(AutoregressiveSuite):
    targets = "last"
    config = T5Config(
        width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, dropout=0.0, num_user_tokens=3, max_items=6
    )

    def test_targets_must_stand_last(self):
        layout, backbone = self.parts()
        with pytest.raises(InvalidValueError, match="one target, at its last position"):
            backbone.level_logits(layout(batch_of([3, 2], targets="every")))


def test_buckets_and_stack_equal_transformers():
    """The whole network against Hugging Face's T5 with the same weights, cut to each level's codes."""
    from transformers import T5Config as HFConfig
    from transformers import T5ForConditionalGeneration

    suite = TestT5()
    layout, ours = suite.parts()
    c = suite.config
    hf = T5ForConditionalGeneration(
        HFConfig(
            vocab_size=ours.tokens.num_embeddings, d_model=c.width, d_kv=c.head_width, d_ff=c.hidden,
            num_layers=c.num_layers, num_heads=c.num_heads, dropout_rate=0.0, tie_word_embeddings=False,
            decoder_start_token_id=ours.start_token, pad_token_id=0, eos_token_id=ours.end_token,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        hf.shared.weight.copy_(ours.tokens.weight)
        # A head of its own: transformers 5 ties it to the embedding whatever the configuration says.
        hf.lm_head = torch.nn.Linear(c.width, ours.tokens.num_embeddings, bias=False)
        hf.lm_head.weight[: sum(SIZES)] = ours.head.weight
        stacks = ((hf.encoder, ours.encoder, ours.encoder_norm, ours.encoder_bias),
                  (hf.decoder, ours.decoder, ours.decoder_norm, ours.decoder_bias))  # fmt: skip
        for stack, layers, norm, bias in stacks:
            stack.final_layer_norm.weight.copy_(norm.weight)
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(bias.table.weight)
            for block, layer in zip(stack.block, layers, strict=True):
                pairs = [(block.layer[0].SelfAttention, layer.attention)]
                if layer.cross_attention is not None:
                    pairs.append((block.layer[1].EncDecAttention, layer.cross_attention))
                for theirs, attention in pairs:
                    keys, values = attention.keys_values.weight.chunk(2)
                    theirs.q.weight.copy_(attention.queries.weight)
                    theirs.k.weight.copy_(keys)
                    theirs.v.weight.copy_(values)
                    theirs.o.weight.copy_(attention.out.weight)
                block.layer[-1].DenseReluDense.wi.weight.copy_(layer.feed_forward.into.weight)
                block.layer[-1].DenseReluDense.wo.weight.copy_(layer.feed_forward.out.weight)
        batch = layout(batch_of([6]))
        offsets = torch.tensor(ours.level_offsets[:-1])
        user, end = torch.tensor([ours.end_token + 1]), torch.tensor([ours.end_token])
        tokens = torch.cat([user, (batch.codes + offsets).flatten(), end])[None]
        written = torch.cat([torch.tensor([ours.start_token]), batch.target_codes[0, :-1] + offsets[:-1]])[None]
        theirs = hf(input_ids=tokens, decoder_input_ids=written).logits[0]
        for level, logits in enumerate(ours.level_logits(batch)):
            begin = ours.level_offsets[level]
            torch.testing.assert_close(logits[0], theirs[level, begin : begin + SIZES[level]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_equal_transformers(bidirectional):
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = torch.arange(-300, 300)[None]
    bias = RelativePositionBias(2, bidirectional=bidirectional)
    assert torch.equal(bias._bucket(ahead), T5Attention._relative_position_bucket(ahead, bidirectional, 32, 128))

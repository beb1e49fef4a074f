from __future__ import annotations

import pytest
import torch

from baselines import hf_t5
from genrec_fast.backbones import T5Config
from genrec_fast.backbones.t5 import NativeT5State, T5State
from genrec_fast.errors import InvalidValueError
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


def test_the_native_engine_gives_what_the_modules_give():
    layout, backbone = TestT5().parts()
    batch = layout(batch_of([6, 1, 3]))
    generator = torch.Generator().manual_seed(0)

    def run():
        """Every level's logits, for beams that are drawn, not searched."""
        generator.manual_seed(0)
        state, found = backbone.prefill(batch), []
        codes = parents = None
        beams = 1
        for level, size in enumerate(SIZES):
            logits, state = backbone.step(state, codes, parents)
            found.append(logits)
            wide = 3 + level
            codes = torch.randint(0, size, (3, wide), generator=generator, dtype=torch.int32)
            parents = torch.randint(0, beams, (3, wide), generator=generator, dtype=torch.int32)
            beams = wide
        return type(state), found

    kind, modules = run()  # gradients are on: torch's modules run
    assert kind is T5State
    with torch.no_grad():
        kind, native = run()
        assert kind is NativeT5State
        for ours, theirs in zip(native, modules, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
        backbone.head.weight.mul_(2)  # packed anew
        for ours, theirs in zip(run()[1], modules, strict=True):
            torch.testing.assert_close(ours, 2 * theirs, rtol=0, atol=4e-5)
        with pytest.raises(InvalidValueError, match="codes must be given from level 1 on"):
            backbone.step(backbone.step(backbone.prefill(batch), None, None)[1], None, None)

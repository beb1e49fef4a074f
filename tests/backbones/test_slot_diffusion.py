from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import SlotDiffusionConfig
from genrec_fast.base.errors import InvalidValueError
from shared.backbone_suite import SIZES, batch_of
from shared.masked_suite import NOTHING, MaskedSuite

SMALL = {"width": 16, "num_heads": 2, "num_layers": 2, "hidden": 32, "dropout": 0.0, "max_items": 6}


class TestSlotDiffusion(MaskedSuite):
    config = SlotDiffusionConfig(**SMALL)

    def test_probabilities_are_over_the_codes_of_a_level(self):
        layout, backbone = self.parts()
        for part in self.outputs(backbone, layout(batch_of([4, 0]))):
            torch.testing.assert_close(part.exp().sum(1), torch.ones(2))

    def test_slots_are_told_apart_by_their_embeddings_alone(self):
        """With one mask and one table for two levels, what is written in either of them is told alike."""
        layout, backbone = self.parts()
        with torch.no_grad():
            backbone.masks[:] = backbone.masks[:1]
        histories = backbone.read(layout(batch_of([4])))
        states = []
        backbone.norm.register_forward_hook(lambda module, given, made: states.append(made))
        backbone.code_logprobs(histories, NOTHING)
        torch.testing.assert_close(states[0], states[0][:, :1].expand_as(states[0]))

    def test_the_form_by_hand(self):
        """No layer: an item's codes end to end through the MLP; logits are products with the table."""
        layout, _ = self.parts()
        config = SlotDiffusionConfig(**{**SMALL, "num_layers": 0}, num_encoder_layers=0)
        torch.manual_seed(0)
        plain = config.build(layout.catalog)
        written = torch.tensor([[[2, -1, 4]]])
        found = plain.code_logprobs(plain.read(layout(batch_of([3]))), written)
        tables = plain.codes.weight.split(SIZES)
        slots = torch.stack([tables[0][2], plain.masks[1], tables[2][4]])
        for level, table in enumerate(tables):
            wanted = (F.layer_norm(slots[level], (16,)) @ table.T).log_softmax(0)
            torch.testing.assert_close(found[level][0, 0], wanted)
        assert [name for name, _ in plain.named_parameters() if name.startswith(("slots", "encoder"))] == []

    def test_bad_settings(self):
        with pytest.raises(InvalidValueError, match="num_heads must divide width = 15, got 2"):
            SlotDiffusionConfig(width=15, num_heads=2)

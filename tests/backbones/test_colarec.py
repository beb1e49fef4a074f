from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import ColaRecConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.nn.packed import Packing, row_positions
from shared.backbone_suite import FEATURES, ITEMS, SIZES, SearchedSuite, batch_of
from shared.catalogs import sized

CONFIG = ColaRecConfig(width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, dropout=0.0, max_items=6)


class TestColaRec(SearchedSuite):
    config = CONFIG
    targets = "last"
    features = True
    whole_catalog = True

    def training_value(self, backbone, batch):
        """Of both kinds of reading."""
        wanted = batch.targets[batch.target_positions]
        own, _ = backbone.indexed(wanted, batch.target_codes)
        levels = range(len(SIZES))
        losses = [torch.nn.functional.cross_entropy(own[n].float(), batch.target_codes[:, n]) for n in levels]
        return super().training_value(backbone, batch) + torch.stack(losses).mean()

    def test_state_dict_round_trip(self):
        """Features are the catalog's, and are not saved."""
        super().test_state_dict_round_trip()
        assert "features" not in self.parts()[1].state_dict()

    def test_what_is_told_is_of_one_reading(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 1, 6]))
        logits, users = backbone.told(batch)
        for ours, theirs in zip(logits, backbone.level_logits(batch), strict=True):
            assert torch.equal(ours, theirs)
        states, offsets = backbone.read(batch.items, task=0)
        assert torch.equal(users, states[offsets[1:] - 1])
        _, items = backbone.indexed(batch.items.values[:3], batch.codes[:3])
        assert torch.equal(items, backbone.summaries(batch.items.values[:3]))


def test_the_encoder_reads_task_ids_contents_and_the_end():
    layout, backbone = TestColaRec().parts()
    states, offsets = backbone.read(Jagged.from_rows([[4, 9], []]), task=1)
    assert offsets.tolist() == [0, 6, 8]
    contents = torch.nn.functional.layer_norm(layout.features[[4, 9]], (FEATURES,)) @ backbone.contents.weight.T
    contents = contents + backbone.contents.bias
    own, end = backbone.items.weight, backbone.tokens.weight[backbone.end_token]
    task = backbone.tasks.weight[1]
    x = torch.stack([task, own[4], contents[0], own[9], contents[1], end, task, end])
    rows = Packing(offsets, row_positions(offsets), backbone.longest)
    for number, layer in enumerate(backbone.encoder):
        x = layer.feed(layer.attend(x, rows, backbone.encoder_bias(), number, causal=False))
    torch.testing.assert_close(states, backbone.encoder_norm(x))


def test_what_it_cannot_be_made_of():
    with pytest.raises(InvalidValueError, match="ColaRecConfig: catalog must have features"):
        CONFIG.build(sized(SIZES, ITEMS))
    with pytest.raises(InvalidValueError, match="ColaRecConfig: num_user_tokens must be 0, got 5"):
        dataclasses.replace(CONFIG, num_user_tokens=5)

from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import S2GRConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.packed import equal_rows
from shared.backbone_suite import FEATURES, SIZES, SearchedSuite, batch_of
from shared.catalogs import sized

CONFIG = S2GRConfig(width=16, num_heads=2, head_width=8, num_layers=2, hidden=32, dropout=0.0, max_items=6)


class TestS2GR(SearchedSuite):
    config = CONFIG
    targets = "last"
    features = True

    def training_value(self, backbone, batch):
        """Its thoughts, its interest and its anchors learn as well."""
        made = backbone.think(batch)
        anchors = backbone.anchors(torch.eye(FEATURES))
        return (
            super().training_value(backbone, batch)
            + (made.thoughts[:, :, :6] - anchors[:, :3].T[None, :, :6]).square().mean()
            + (made.interest - made.meant).square().mean()
        )


def test_a_code_is_read_off_the_state_behind_its_thought():
    """The decoder over the whole row at once: start, thought, code, thought, code, thought; causal, so it is T5's."""
    layout, backbone = TestS2GR().parts()
    batch = layout(batch_of([4, 2]))
    made = backbone.think(batch)
    memory, offsets = backbone._encode(batch)
    tokens = batch.target_codes + torch.tensor(backbone.level_offsets[:-1])
    starts = backbone.tokens(torch.full((2, 1), backbone.start_token))
    written = torch.cat([starts, backbone.tokens(tokens)], 1)
    row = torch.stack([written[:, :3], made.thoughts], 2).flatten(1, 2)
    x, rows = row.flatten(0, 1), equal_rows(2, 6, row.device)
    over = backbone._over(x, offsets)
    for number, layer in enumerate(backbone.decoder):
        x = layer.attend(x, rows, backbone.decoder_bias(), number, causal=True)
        x = layer.feed(layer.attend_cross(x, *layer.cross_attention.project(memory), over))
    states = backbone.decoder_norm(x).view(2, 6, -1)
    torch.testing.assert_close(made.thoughts, states[:, ::2] + backbone.level_places.weight, rtol=1e-4, atol=1e-5)
    for level in range(3):
        wanted = backbone.logits(states[:, 2 * level + 1], level)
        torch.testing.assert_close(made.logits[level], wanted, rtol=1e-4, atol=1e-5)
    embedded = torch.stack([backbone.tokens(tokens[:, level]) for level in range(3)]).mean(0)
    torch.testing.assert_close(made.meant, embedded)


def test_it_needs_features():
    with pytest.raises(InvalidValueError, match="S2GRConfig: catalog must have features"):
        CONFIG.build(sized(SIZES, 30))

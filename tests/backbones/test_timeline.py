from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import TimelineConfig
from genrec_fast.base.errors import InvalidValueError
from shared.backbone_suite import AutoregressiveSuite, batch_of, catalog_layout


class TestTimeline(AutoregressiveSuite):
    config = TimelineConfig(
        width=16, num_heads=2, num_layers=2, hidden=32, depth_hidden=32, dropout=0.0, depth_dropout=0.0, max_items=6
    )


class TestTimelineWithFeatures(TestTimeline):
    features = True

    def test_features_matter(self):
        layout, backbone = self.parts()
        before = self.outputs(backbone, layout(batch_of([3])))[0]
        layout.features.mul_(-1)
        assert not torch.allclose(before, self.outputs(backbone, layout(batch_of([3])))[0])

    def test_missing_features_are_an_error(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match="batch must have features"):
            backbone.prefill(catalog_layout(False)(batch_of([2])))


def test_positions_train_as_if_each_stood_last():
    """Training all positions at once equals one history per position: no position sees its future."""
    suite = TestTimeline()
    layout, backbone = suite.parts()
    batch = layout(batch_of([5], targets="every"))
    together = backbone.level_logits(batch)
    for position in range(5):
        items = batch.items.values[: position + 1]
        alone = layout(
            type(batch)(
                items=type(batch.items).from_rows([items]),
                targets=torch.cat([torch.full((position,), -1), batch.targets[position : position + 1]]),
            )
        )
        for level, logits in enumerate(backbone.level_logits(alone)):
            torch.testing.assert_close(logits[0], together[level][position], rtol=1e-4, atol=1e-5)

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import TimelineConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.item_inputs import ItemInputsConfig
from shared.autoregressive_suite import AutoregressiveSuite
from shared.backbone_suite import SIZES, batch_of, catalog_layout


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


class TestTimelineWithVectorsOfItems(TestTimeline):
    features = True
    config = dataclasses.replace(TestTimeline.config, items=ItemInputsConfig())

    def training_value(self, backbone, batch):
        _, vectors, table, _ = backbone.added_scores(batch)
        return super().training_value(backbone, batch) + (vectors @ table.T).logsumexp(1).mean()

    def test_every_item_is_scored_by_the_vectors_that_are_read(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([3, 2], targets="every"))
        levels, vectors, table, (items, values) = backbone.added_scores(batch)
        for logits, alone in zip(levels, backbone.level_logits(batch), strict=True):
            torch.testing.assert_close(logits, alone)
        states = F.normalize(backbone.target_states(batch), dim=1)
        cosines = states @ F.normalize(backbone.items.table(), dim=1).T
        torch.testing.assert_close(vectors @ table.T, cosines / 0.07)
        assert len(items) == len(vectors) and not len(items.values) and not len(values)
        with torch.no_grad():
            backbone.items.weight[:, ::2] += 1.0
        assert not torch.allclose(levels[0], backbone.level_logits(batch)[0])

    def test_without_features_its_own_vectors_are_all(self):
        catalog = Catalog(item_codes=catalog_layout(False).item_codes, codebook_sizes=SIZES)
        found = dataclasses.replace(self.config, items=ItemInputsConfig(features=True)).build(catalog).items
        assert [tuple(p.shape) for p in found.parameters()] == [(catalog.num_items, self.config.width)]


def test_items_are_scored_only_where_they_have_vectors():
    layout, backbone = TestTimeline().parts()
    with pytest.raises(InvalidValueError, match="TimelineConfig must have items where every item is scored"):
        backbone.added_scores(layout(batch_of([3], targets="every")))


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

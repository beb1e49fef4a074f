from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import SeaterConfig
from genrec_fast.backbones.seater import tree_of
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.layouts import PlainConfig
from shared.backbone_suite import LastTarget, SearchedSuite, batch_of
from shared.catalogs import coded, sized

CONFIG = SeaterConfig(width=16, num_heads=2, num_layers=2, hidden=24, dropout=0.0, max_items=6)
EIGHT = torch.cartesian_prod(*[torch.arange(2)] * 3)  # the leaves of a binary tree


class TestSeater(LastTarget, SearchedSuite):
    config = CONFIG
    op = "seater"
    whole_catalog = True

    def training_value(self, backbone, batch):
        memory, offsets = backbone.read(batch)
        states, _ = backbone.target_states(batch, memory, offsets)
        return (
            super().training_value(backbone, batch) - backbone.affinity(memory, offsets, states[:, None]).log().mean()
        )

    def test_codes_that_are_no_item_are_never_written(self):
        """Whatever a search asks for, children that the tree does not have are at -inf."""
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 2]))
        for level, logits in enumerate(backbone.level_logits(batch)):
            mask = PlainConfig(use_valid_codes=True).build(layout.catalog)._valid_codes(batch.target_codes)[level]
            assert torch.equal(logits > -torch.inf, mask)


def test_a_tree_by_hand():
    codes = torch.tensor([[1, 0], [0, 2], [1, 1], [0, 2]])
    tables, first, leaves = tree_of(codes, (2, 3))
    assert first == (0, 1, 3, 6)
    assert [table.tolist() for table in tables] == [[[1, 2]], [[-1, -1, 3], [4, 5, -1]]]
    assert leaves.tolist() == [4, 3, 5, 3]


def test_a_level_is_a_softmax_over_the_children_of_the_true_parent():
    torch.manual_seed(0)
    backbone = CONFIG.build(coded(EIGHT, (2, 2, 2)))
    layout = PlainConfig().build(coded(EIGHT, (2, 2, 2)))
    batch = layout(Batch(Jagged.from_rows([[1, 4]]), torch.tensor([-1, 6])))
    assert backbone.nodes.num_embeddings == 15
    assert backbone.paths(EIGHT[6:7]).tolist() == [[0, 2, 6, 13]]
    memory, offsets = backbone.read(batch)
    states = backbone.write(torch.tensor([[0, 2, 6]]), memory, offsets)[0]
    children, codes = [(1, 2), (5, 6), (13, 14)], [1, 1, 0]
    for level, logits in enumerate(backbone.level_logits(batch)):
        scores = torch.stack([states[level] @ backbone.nodes.weight[child] for child in children[level]])
        own = torch.nn.functional.cross_entropy(logits, torch.tensor([codes[level]]))
        torch.testing.assert_close(own, scores.logsumexp(0) - scores[codes[level]])


def test_an_item_is_its_leaf():
    backbone = CONFIG.build(coded(EIGHT, (2, 2, 2)))
    assert backbone.leaves.tolist() == list(range(7, 15))
    with pytest.raises(InvalidValueError, match="seater: catalog must have item_codes, got None"):
        CONFIG.build(sized((2, 2), 4))
    with pytest.raises(InvalidValueError, match="SeaterConfig"):
        dataclasses.replace(CONFIG, num_heads=3)

"""H2Rec: two kinds of IDs read through each other, and the loss that lets them meet."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from genrec_fast.backbones import TwoIdsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import DualAlignmentConfig, FullSoftmaxConfig
from genrec_fast.objectives.masked_fusion import alignment
from shared.backbone_suite import ITEMS, EmbeddingSuite, batch_of, catalog_layout
from shared.catalogs import sized, system_of

SMALL = {"width": 16, "num_heads": 2, "cross_heads": 2, "num_layers": 1, "hidden": 16, "dropout": 0.0, "max_items": 6}
SMALL |= {"gate_dropout": 0.0}


def made(**changes):
    torch.manual_seed(0)
    backbone = TwoIdsConfig(**{**SMALL, **changes}).build(catalog_layout(features=True).catalog).eval()
    for parameter in backbone.parameters():  # far from the start, where a mistake would show
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


class TestTwoIds(EmbeddingSuite):
    features = True
    whole_catalog = True
    config = TwoIdsConfig(**SMALL)

    def training_value(self, backbone, batch):
        """With the objective's other terms, which alone read the masks."""
        return DualAlignmentConfig().build()(system_of(backbone), batch).value


def attend(part, x, seen):
    """One row, one query and one head at a time."""
    queries, (keys, values), width = part.queries(x), part.keys_values(seen).chunk(2, 1), 16 // part.num_heads
    out = torch.zeros_like(x)
    for i in range(len(x)):
        for h in range(part.num_heads):
            at = slice(h * width, (h + 1) * width)
            weights = torch.softmax(keys[: i + 1, at] @ queries[i, at] / math.sqrt(width), 0)
            out[i, at] = weights @ values[: i + 1, at]
    return part.out(out)


def test_both_branches_are_their_formula():
    backbone = made(num_layers=1)
    items = torch.tensor([3, 1, 4, 1])
    with torch.no_grad():
        codes, placed = backbone.item_codes[items], backbone.positions.weight[:4]
        own = backbone.ids.weight[items] * 4 + placed
        levels = [table.weight[codes[:, level]] for level, table in enumerate(backbone.codes)]
        told = torch.cat([own, torch.tensor([[1.0, 0.6, 0.2]]).expand(4, 3)], 1)
        gates = backbone.gate_out(torch.relu(backbone.gate_in(told))) + torch.tensor([1.0, 0.6, 0.2])
        gates = gates.softmax(1)
        first = sum(
            gates[:, [level]] * attend(backbone.from_levels[level], part * 4 + placed, own)
            for level, part in enumerate(levels)
        )
        second = attend(backbone.from_ids, own, torch.stack(levels).mean(0) * 4 + placed)
        rows = backbone._rows(Batch(Jagged.from_rows([items])))
        wanted = torch.cat([backbone._through(part, rows) for part in (first, second)], 1)
        found = backbone.states(Batch(Jagged.from_rows([items])))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        table = torch.cat([backbone.ids.weight, backbone.codes(backbone.item_codes)], 1)
        assert torch.equal(backbone.item_table(), table)


def test_the_levels_of_the_lowest_gates_are_hidden():
    """Of three levels one is: its codes have no part in the second state, and those of the others have."""
    backbone = made(hidden_share=0.4)
    backbone.gate_out.weight.data.zero_()
    backbone.gate_out.bias.data.copy_(torch.tensor([0.0, -9.0, 0.0]))  # the middle level is gated least
    batch = catalog_layout(features=True)(batch_of([3, 2]))
    full, masked = backbone.masked_users(batch)
    assert full.shape == masked.shape == (2, 16)
    for level, part in enumerate(backbone.codes):
        before = part.weight.data.clone()
        part.weight.data += 1.0
        again = backbone.masked_users(batch)
        assert not torch.equal(again[0], full)
        assert torch.equal(again[1], masked) == (level == 1)
        part.weight.data.copy_(before)


def test_the_loss_is_its_terms():
    backbone, config = made(), DualAlignmentConfig(id_weight=0.3, level_weight=0.2)
    batch = catalog_layout(features=True)(batch_of([3, 2, 4, 1]))
    loss = config.build()(system_of(backbone), batch)
    items = batch.targets[batch.target_positions].unique()
    wanted = FullSoftmaxConfig().build()(system_of(backbone), batch).value
    wanted = wanted + 0.3 * alignment(backbone.ids(items), backbone.code_vectors(items), 0.5)
    wanted = wanted + 0.2 * alignment(*backbone.masked_users(batch), 1.0)
    torch.testing.assert_close(loss.value, wanted)
    assert list(loss.figures) == ["loss_items", "loss_ids", "loss_levels"]


def test_vectors_of_its_own_begin_as_the_features():
    torch.manual_seed(0)
    catalog = catalog_layout(features=True).catalog
    begun = TwoIdsConfig(**SMALL).build(catalog).ids.weight
    torch.manual_seed(1)
    assert torch.equal(begun[:, :6], TwoIdsConfig(**SMALL).build(catalog).ids.weight[:, :6])


def test_what_it_cannot_be_made_of_is_named():
    with pytest.raises(InvalidValueError, match=r"^TwoIds: catalog must have item_codes, got None"):
        TwoIdsConfig(**SMALL).build(sized((), ITEMS, 6))
    bare = dataclasses.replace(catalog_layout().catalog, features=None)
    with pytest.raises(InvalidValueError, match=r"^TwoIds: catalog must have features where own vectors begin"):
        TwoIdsConfig(**SMALL).build(bare)
    assert TwoIdsConfig(**SMALL, start=False).build(bare).ids.num_embeddings == ITEMS

"""CCFRec: codes that ask an item's views, and the loss that hides some of them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from genrec_fast.backbones import CausalConfig, CodeFusionConfig, ItemInputsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import FullSoftmaxConfig, MaskedFusionConfig
from genrec_fast.objectives.masked_fusion import alignment
from shared.backbone_suite import FEATURES, ITEMS, SIZES, EmbeddingSuite, batch_of, catalog_layout
from shared.catalogs import coded, sized, system_of

SMALL = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 16, "dropout": 0.0, "max_items": 6}
SMALL |= {"fusion_hidden": 12, "fusion_dropout": 0.0, "num_views": 3}


def fusion(**changes):
    torch.manual_seed(0)
    catalog = catalog_layout(features=True).catalog
    backbone = CodeFusionConfig(**{**SMALL, **changes}).build(catalog).eval()
    for parameter in backbone.parameters():  # far from the start, where a mistake would show
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


class TestCodeFusion(EmbeddingSuite):
    features = True
    whole_catalog = True
    config = CodeFusionConfig(**{**SMALL, "num_layers": 2})


def attend(module, x, seen):
    """One item: every code over every view, head by head."""
    width = x.shape[1] // module.num_heads
    queries, (keys, values) = module.queries(x), module.keys_values(seen).chunk(2, 1)
    heads = []
    for h in range(module.num_heads):
        part = slice(h * width, (h + 1) * width)
        weights = torch.softmax(queries[:, part] @ keys[:, part].T / math.sqrt(width), 1)
        heads.append(weights @ values[:, part])
    return module.norm(x + module.out(torch.cat(heads, 1)))


def test_an_items_vector_is_what_its_codes_make_of_its_views():
    backbone = fusion(fusion_layers=2)
    items, item = backbone.items, 7
    with torch.no_grad():
        tokens = [int(code) + first for code, first in zip(items.item_codes[item], (0, 0, 0), strict=True)]
        assert [0 <= tokens[0] < 7, 7 <= tokens[1] < 12, 12 <= tokens[2] < 23] == [True] * 3
        embedded = items.codes.weight[tokens]
        slices = items.features[item].view(3, FEATURES // 3)
        views = torch.stack([project(part[None])[0] for project, part in zip(items.views, slices, strict=True)])
        x = embedded
        for layer in items.layers:
            x = attend(layer.over_views, attend(layer.among_codes, x, x), views)
            x = layer.norm(x + layer.out(torch.nn.functional.gelu(layer.into(x))))
        wanted = x.mean(0) + embedded.mean(0)
        torch.testing.assert_close(items(torch.tensor([item]))[0], wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(items.table()[item], wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            backbone.item_vectors(torch.tensor([3, 7])), backbone.item_table()[[3, 7]], rtol=1e-4, atol=1e-5
        )


def test_a_hidden_code_is_not_read():
    """Another code in a hidden place changes nothing; in a place that is seen it does."""
    backbone, layout = fusion(), catalog_layout(features=True)
    batch = layout(batch_of([3, 2]))
    hidden = torch.zeros(5, 3, dtype=torch.bool)
    hidden[1, 2] = hidden[4, 0] = True
    one = backbone.embed_hidden(batch, hidden)
    assert [tuple(part.shape) for part in one] == [(2, 16), (2, sum(SIZES))]
    before, item = backbone.items.item_codes.clone(), int(batch.items.values[1])
    changed = before.clone()
    changed[item, 2] = 12 + (changed[item, 2] - 11) % 11
    backbone.items.item_codes = changed
    places = (batch.items.values == item).nonzero().flatten().tolist()
    assert places == [1]
    for part, again in zip(one, backbone.embed_hidden(batch, hidden), strict=True):
        assert torch.equal(part, again)
    assert not torch.equal(one[0], backbone.embed_hidden(batch, torch.zeros_like(hidden))[0])
    plain, none = backbone.embed_hidden(batch, torch.zeros_like(hidden))
    torch.testing.assert_close(plain, backbone.embed_targets(batch))
    assert none.shape == (0, sum(SIZES))


class TestMaskedFusion:
    def made(self, **settings):
        backbone, layout = fusion(), catalog_layout(features=True)
        return MaskedFusionConfig(**settings).build(), system_of(backbone), layout(batch_of([3, 2, 4, 1]))

    def test_the_loss_is_its_terms(self):
        objective, system, batch = self.made(code_weight=0.3, alignment_weight=0.2)
        torch.manual_seed(5)
        loss = objective(system, batch)
        terms = loss.figures
        value = terms["loss_items"] + 0.3 * terms["loss_codes"] + 0.2 * terms["loss_alignment"]
        assert float(loss.value.detach()) == pytest.approx(value, rel=1e-5)
        torch.manual_seed(5)
        hidden = torch.rand(10, 3) < 0.5
        users, logits = system.backbone.embed_hidden(batch, hidden)
        codes = torch.nn.functional.cross_entropy(logits, system.backbone.code_tokens(batch.items.values)[hidden])
        assert terms["loss_codes"] == pytest.approx(float(codes.detach()), rel=1e-5)
        aligned = alignment(system.backbone.embed_targets(batch), users, 0.07)
        assert terms["loss_alignment"] == pytest.approx(float(aligned.detach()), rel=1e-5)

    def test_all_items_are_the_full_softmax(self):
        objective, system, batch = self.made()
        wanted = float(FullSoftmaxConfig().build()(system, batch).value.detach())
        assert objective(system, batch).figures["loss_items"] == pytest.approx(wanted, rel=1e-4)

    def test_drawn_negatives_are_no_targets_of_the_batch(self):
        """As many as there are: every item but the other rows' targets."""
        objective, system, batch = self.made(num_negatives=ITEMS)
        targets = batch.targets[batch.target_positions]
        logits = system.backbone.embed_targets(batch) @ system.backbone.item_table().T
        left_out = torch.zeros_like(logits, dtype=torch.bool)
        left_out[:, targets] = True
        left_out[torch.arange(len(targets)), targets] = False
        wanted = torch.nn.functional.cross_entropy(logits.masked_fill(left_out, -torch.inf), targets)
        assert len(targets.unique()) > 1
        assert objective(system, batch).figures["loss_items"] == pytest.approx(float(wanted.detach()), rel=1e-4)

    def test_fewer_negatives_are_fewer_terms(self):
        objective, system, batch = self.made(num_negatives=4)
        full = float(FullSoftmaxConfig().build()(system, batch).value.detach())
        assert objective(system, batch).figures["loss_items"] < full


def test_alignment_by_hand():
    """Two users whose masked readings are orthogonal to the other's: each sees cosines 1 and 0."""
    users, masked = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    assert float(alignment(users, masked, 0.5)) == pytest.approx(math.log(1 + math.exp(-2.0)))


def test_what_it_cannot_be_made_of_is_named():
    with pytest.raises(InvalidValueError, match=r"^FusedItems: catalog must have features, got None"):
        CodeFusionConfig(**SMALL).build(dataclasses.replace(catalog_layout().catalog, features=None))
    with pytest.raises(InvalidValueError, match=r"^FusedItems: catalog must have item_codes, got None"):
        CodeFusionConfig(**SMALL).build(sized((), ITEMS, FEATURES))
    with pytest.raises(InvalidValueError, match=r"^CodeFusionConfig: items must be left out"):
        CodeFusionConfig(**SMALL, items=ItemInputsConfig(codes="sum"))
    with pytest.raises(InvalidValueError, match=r"^CodeFusionConfig: normalize must be True"):
        CodeFusionConfig(**SMALL, normalize=False)
    with pytest.raises(InvalidValueError, match=r"^MaskedFusionConfig: mask_ratio must be in \(0, 1\), got 1"):
        MaskedFusionConfig(mask_ratio=1.0)
    assert CausalConfig().normalize is False
    few = coded(torch.tensor([[0, 1], [1, 0]]), (2, 2), torch.ones(2, 1))
    assert len(CodeFusionConfig(**SMALL).build(few).items.views) == 1
    assert Batch(Jagged.from_rows([[1]])).targets is None

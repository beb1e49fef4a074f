from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import CausalConfig
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.item_inputs import ITEMS, ItemIds, ItemInputsConfig, item_inputs, whitened
from genrec_fast.nn.transformer import init_weights
from genrec_fast.recipe.system import System
from genrec_fast.recipes import sasrec
from shared.catalogs import coded

CODES, SIZES = torch.tensor([[0, 1], [2, 0], [2, 1], [1, 1]]), (3, 2)


def catalog(features=True):
    vectors = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    return coded(CODES, SIZES, vectors if features else None)


def built(**settings):
    torch.manual_seed(0)
    return item_inputs(ItemInputsConfig(**settings), catalog(), 6)


def test_ids_alone_are_a_table_as_torch_makes_it():
    torch.manual_seed(0)
    plain = torch.nn.Embedding(4, 6)
    torch.manual_seed(0)
    items = item_inputs(ITEMS, Catalog(num_items=4), 6)
    assert isinstance(items, ItemIds)
    assert list(items.state_dict()) == ["weight"]
    assert torch.equal(items.weight, plain.weight)
    assert items.table() is items.weight


@pytest.mark.parametrize("codes", ["none", "sum", "mean"])
@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_an_item_is_the_sum_of_what_is_read(ids, codes, features):
    if not ids and not features and codes == "none":
        with pytest.raises(InvalidValueError, match=r"^ItemInputsConfig: ids must be set where neither codes nor"):
            ItemInputsConfig(ids=False)
        return
    items = built(ids=ids, codes=codes, features=features)
    wanted = torch.zeros(4, 6)
    if ids:
        wanted = wanted + (items.ids.weight if codes != "none" or features else items.weight)
    if codes != "none":
        rows = [table.weight[CODES[:, level]] for level, table in enumerate(items.codes)]
        wanted = wanted + torch.stack(rows).sum(0) / (2 if codes == "mean" else 1)
    if features:
        scaled = catalog().features - catalog().features.mean(1, keepdim=True)
        scaled = scaled / (scaled.square().mean(1, keepdim=True) + 1e-5).sqrt()
        wanted = wanted + F.linear(scaled, items.features.weight, items.features.bias)
    torch.testing.assert_close(items.table(), wanted)
    asked = torch.tensor([3, 0, 3])
    torch.testing.assert_close(items(asked), wanted[asked])
    assert items(asked[:0]).shape == (0, 6)
    items.table().square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in items.parameters())


def test_the_id_may_stand_beside_the_rest():
    items = built(codes="sum", id_width=2)
    rows = items.codes[0].weight[CODES[:, 0]] + items.codes[1].weight[CODES[:, 1]]
    torch.testing.assert_close(items.table(), torch.cat([items.ids.weight, rows], 1))
    assert (items.ids.weight.shape, rows.shape) == ((4, 2), (4, 4))
    with pytest.raises(InvalidValueError, match=r"^ItemInputs: id_width must be below width = 6, got 6"):
        built(codes="sum", id_width=6)
    with pytest.raises(InvalidValueError, match=r"^ItemInputsConfig: id_width must be 0 unless an item is read by"):
        built(id_width=2)


def test_what_the_catalog_knows_is_not_saved():
    assert not {"item_codes", "vectors"} & {*built(codes="sum", features=True).state_dict()}


@pytest.mark.parametrize("width", [2, 5, 9])
def test_vectors_begin_as_principal_components(width):
    torch.manual_seed(0)
    vectors = torch.randn(40, 5, dtype=torch.float64) @ torch.diag(torch.tensor([5.0, 1.0, 3.0, 0.1, 2.0]).double())
    items = ItemIds(40, width, start=vectors).apply(init_weights)
    kept = min(width, 5)
    found = items.weight[:, :kept].detach().double()
    centred = vectors - vectors.mean(0)
    axes = torch.linalg.svd(centred).Vh[:kept]
    theirs = centred @ axes.T
    assert float(found.square().mean().sqrt()) == pytest.approx(0.02, rel=1e-5)
    found, theirs = found / found.norm(), theirs / theirs.norm()
    torch.testing.assert_close(found @ found.T, theirs @ theirs.T, rtol=0, atol=1e-6)
    assert bool(items.weight[:, kept:].any()) == (width > 5)  # as they were drawn
    assert items.start is None


def test_equal_vectors_begin_at_0():
    assert not bool(ItemIds(4, 2, start=torch.ones(4, 3)).apply(init_weights).weight.any())


def test_vectors_may_stay_what_they_are():
    assert not built(learned_ids=False).weight.requires_grad


@pytest.mark.parametrize("settings", [{"features": True}, {"start": "features"}])
def test_features_must_be_there(settings):
    with pytest.raises(InvalidValueError, match=r"^ItemInputs: features must be given .* set use_features in the lay"):
        item_inputs(ItemInputsConfig(**settings), catalog(features=False), 6)


def test_codes_must_be_there():
    with pytest.raises(InvalidValueError, match=r"^ItemInputs: item_codes must be given"):
        item_inputs(ItemInputsConfig(codes="sum"), Catalog(num_items=4), 6)


def test_settings_are_settings():
    with pytest.raises(InvalidTypeError, match=r"^CausalConfig: items must be an ItemInputsConfig, got"):
        CausalConfig(items={"ids": True})


@pytest.mark.parametrize("settings", [{"start": "features"}, {"learned_ids": False}])
def test_settings_of_ids_need_ids(settings):
    with pytest.raises(InvalidValueError, match=r"^ItemInputsConfig: ids must be set where start or learned_ids is"):
        ItemInputsConfig(ids=False, codes="sum", **settings)


def test_new_semantic_ids_are_read_from_then_on():
    backbone = CausalConfig(width=4, num_heads=2, items=ItemInputsConfig(ids=False, codes="mean"))
    system = System(dataclasses.replace(sasrec(), backbone=backbone), catalog())
    before = system.backbone.item_table()
    system.recode(catalog().with_codes(CODES.roll(1, 0), SIZES))
    torch.testing.assert_close(system.backbone.item_table(), before.roll(1, 0))
    with pytest.raises(InvalidValueError, match=r"^ItemInputs: codebook_sizes must stay \(3, 2\), got \(3, 3\)"):
        system.recode(catalog().with_codes(CODES, (3, 3)))


def test_whitened_vectors_have_length_1_and_even_directions():
    torch.manual_seed(0)
    scale = torch.tensor([100.0, 10.0, 1.0, 0.0])
    vectors = torch.randn(5000, 4) * scale + 7.0  # a mean of its own, and a direction in which nothing varies
    found = whitened(vectors, 3)
    assert found.shape == (5000, 3)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5000))
    centred = (vectors - vectors.mean(0)).double()
    wanted = F.normalize(centred[:, :3] / scale[:3].sqrt(), dim=1)  # the principal directions are nearly the axes
    torch.testing.assert_close((found @ found.T)[:50, :50].double(), (wanted @ wanted.T)[:50, :50], atol=0.03, rtol=0)
    assert whitened(vectors, 9).shape == (5000, 4)
    assert bool(whitened(torch.ones(6, 4), 2).isfinite().all())

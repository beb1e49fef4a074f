from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import LigerConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.decoders import BeamConfig, RerankConfig, RetrieveConfig
from genrec_fast.decoders.base import Parts, run
from shared.backbone_suite import ITEMS, SIZES, batch_of, catalog_layout
from shared.catalogs import coded
from shared.random_model import RandomModel

COUNTS = torch.ones(ITEMS, dtype=torch.int64).index_fill(0, torch.tensor([3, 17, 20]), 0)


def parts(counts=None):
    torch.manual_seed(0)
    layout = catalog_layout(True)
    catalog = coded(layout.item_codes, SIZES, layout.features, counts=counts)
    config = LigerConfig(
        width=16, num_heads=2, head_width=8, num_layers=1, hidden=32, text_hidden=(8,), num_user_tokens=0, max_items=6
    )
    return layout, catalog, config.build(catalog).eval()


def search(config, k=5, lengths=(4, 1, 6, 2), **options):
    layout, catalog, backbone = parts(COUNTS)
    batch = layout(Batch(batch_of(list(lengths)).items))
    decoder = config.build(catalog)
    with torch.inference_mode():
        return run(decoder.begin(Parts(backbone, catalog.trie, layout), batch, Query(k=k, **options))), batch


def dense(k=5, lengths=(4, 1, 6, 2), **options):
    layout, catalog, backbone = parts()
    batch = layout(Batch(batch_of(list(lengths)).items))
    return RetrieveConfig().build(catalog).search(backbone, batch, catalog.trie, k, **options)


@pytest.mark.parametrize("k", [1, 5, ITEMS + 3])
@pytest.mark.parametrize("unseen", [True, False])
def test_with_as_many_beams_as_items_it_is_the_dense_search(k, unseen):
    generator = torch.Generator().manual_seed(0)
    allowed = torch.rand(4, ITEMS, generator=generator) < 0.5
    exclude = Jagged.from_rows([[1, 2, 3], [], [17, 20], [5]])
    for options in ({}, {"allowed": allowed}, {"exclude": exclude}, {"allowed": allowed, "exclude": exclude}):
        found, _ = search(RerankConfig(num_beams=2 * ITEMS, unseen=unseen), k, **options)
        expected = dense(k, **options)
        assert torch.equal(found.items, expected.items)
        assert torch.equal(found.scores, expected.scores)
        assert bool(found.exact.all())
        codes = catalog_layout(True).item_codes[found.items.clamp(min=0)].where((found.items >= 0)[..., None], -1)
        assert torch.equal(found.codes, codes.int())


@pytest.mark.parametrize("unseen", [True, False])
def test_few_beams_and_the_unseen_items_are_compared(unseen):
    _, catalog, backbone = parts()
    found, batch = search(RerankConfig(num_beams=4, unseen=unseen), 3)
    with torch.inference_mode():
        written = BeamConfig(num_beams=4).build().search(backbone, batch, catalog.trie, 4)
        cosines = backbone.embed_users(batch) @ backbone.item_table().t()
    for user in range(len(batch)):
        candidates = sorted({*written.items[user].tolist(), *([3, 17, 20] if unseen else [])})
        best = max(candidates, key=lambda item: float(cosines[user, item]))
        assert int(found.items[user, 0]) == best
        assert set(found.items[user].tolist()) <= set(candidates)
    assert not bool(found.exact.any())
    assert bool((found.bound == torch.inf).all())


def test_unseen_items_pass_the_filters():
    allowed = torch.ones(ITEMS, dtype=torch.bool).index_fill(0, torch.tensor([3]), False)
    exclude = Jagged.from_rows([[17], [], [], []])
    found, _ = search(RerankConfig(num_beams=3), ITEMS, num_beams=ITEMS, allowed=allowed, exclude=exclude)
    assert not bool((found.items == 3).any())
    assert not bool((found.items[0] == 17).any())
    assert bool((found.items[1] == 17).any())


@pytest.mark.parametrize("widths", [[4, 8, 4, 6], [2 * ITEMS, 3, ITEMS, 3]])
def test_each_user_has_beams_of_his_own(widths):
    """As many candidates as he would have alone."""
    config, lengths = RerankConfig(num_beams=5, unseen=False), (4, 1, 6, 2)
    together, batch = search(config, 3, lengths=lengths, num_beams=torch.tensor(widths))
    _, catalog, backbone = parts()
    decoder = config.build(catalog)
    for user, width in enumerate(widths):
        one = batch.select(torch.tensor([user]))
        alone = decoder.search(backbone, one, catalog.trie, 3, num_beams=width)
        for name in ("items", "codes", "exact", "bound"):
            assert torch.equal(getattr(together, name)[user], getattr(alone, name)[0])
        torch.testing.assert_close(together.scores[user], alone.scores[0])


def test_nobody_and_bad_questions():
    found, _ = search(RerankConfig(), 3, lengths=())
    assert found.items.shape == (0, 3)
    with pytest.raises(InvalidValueError, match="rerank: exact must be False"):
        search(RerankConfig(), exact=True)
    layout, catalog, _ = parts()
    batch = layout(Batch(batch_of([2]).items))
    with pytest.raises(InvalidTypeError, match="rerank: backbone must be Autoregressive and Embedding"):
        RerankConfig().build(catalog).search(RandomModel(SIZES), batch, catalog.trie, 2)


def test_level_by_level_is_the_same():
    layout, catalog, backbone = parts(COUNTS)
    batch = layout(Batch(batch_of([4, 1]).items))
    decoder = RerankConfig(num_beams=4).build(catalog)
    with torch.inference_mode():
        going = decoder.begin(Parts(backbone, catalog.trie, layout), batch, Query(k=3))
        steps = 0
        while not going.done:
            assert not bool(going.finished.any())
            going.advance()
            steps += 1
    assert steps == len(SIZES)
    whole = decoder.search(backbone, batch, catalog.trie, 3)
    for field in dataclasses.fields(whole)[:5]:
        assert torch.equal(getattr(whole, field.name), getattr(going.results(), field.name))

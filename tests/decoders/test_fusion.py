from __future__ import annotations

import pytest
import torch

from genrec_fast.backbones import CobraConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import BeamFusionConfig
from genrec_fast.layouts import PlainConfig
from shared.backbone_suite import batch_of
from shared.catalogs import coded
from shared.random_model import RandomModel

SIZES, ITEMS = (3, 4), 30  # about 11 semantic IDs, several items each


def parts():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(size, (ITEMS,), generator=generator) for size in SIZES], 1)
    catalog = coded(codes, SIZES, torch.randn(ITEMS, 6, generator=generator))
    config = CobraConfig(width=16, num_heads=2, num_layers=1, hidden=32, text_hidden=(8,), max_items=6)
    return PlainConfig(use_features=True).build(catalog), catalog, config.build(catalog).eval()


def search(config, k=5, lengths=(4, 1, 0, 6), **options):
    layout, catalog, backbone = parts()
    batch = layout(Batch(batch_of(list(lengths)).items))
    return config.build(catalog).search(backbone, batch, catalog.trie, k, **options)


def everything(config, kept, lengths=(4, 1, 0, 6)):
    """Every item's fused score by teacher forcing, one user and item at a time: no search, no session."""
    layout, catalog, backbone = parts()
    table = backbone.item_table()
    out = torch.full((len(lengths), ITEMS), -torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for user, row in enumerate(batch_of(list(lengths)).items.rows()):
            codes, cosines = torch.zeros(ITEMS, dtype=torch.float64), torch.zeros(ITEMS, dtype=torch.float64)
            for item in range(ITEMS):
                if not len(row):
                    session = backbone.prefill(layout(Batch(Jagged.from_rows([[]]))))
                    for level in range(len(SIZES)):
                        logits = session.scores()[0][0, 0].double().log_softmax(-1)
                        code = catalog.item_codes[item, level]
                        codes[item] += logits[code]
                        session = session.extend(code.view(1, 1).int(), torch.zeros(1, 1, dtype=torch.int32))
                    vector = backbone.vectors_behind(session)[0, 0]
                else:
                    wanted = torch.full((len(row),), -1)
                    wanted[-1] = item
                    logits, vectors = backbone.predictions(layout(Batch(Jagged.from_rows([row]), wanted)))
                    codes[item] = sum(
                        x[0].double().log_softmax(-1)[catalog.item_codes[item, n]] for n, x in enumerate(logits)
                    )
                    vector = vectors[0]
                cosines[item] = (vector.double() * table[item].double()).sum()
            rows = catalog.trie.lookup(catalog.item_codes).long()
            there = kept[user]
            beams = {int(rows[i]): float(codes[i]) for i in range(ITEMS) if there[i]}
            code_sum = (config.code_weight * torch.tensor(list(beams.values())).double()).logsumexp(0)
            cosine_sum = (config.vector_weight * cosines[there]).logsumexp(0)
            fused = config.code_weight * codes - code_sum + config.vector_weight * cosines - cosine_sum
            out[user] = fused.where(there, -torch.inf)
    return out


@pytest.mark.parametrize(("code_weight", "vector_weight"), [(1.0, 16.0), (0.0, 4.0), (2.0, 0.0)])
def test_with_as_many_beams_as_semantic_ids_it_is_the_best_of_all_items(code_weight, vector_weight):
    config = BeamFusionConfig(num_beams=12, code_weight=code_weight, vector_weight=vector_weight)
    generator = torch.Generator().manual_seed(0)
    allowed = torch.rand(4, ITEMS, generator=generator) < 0.7
    for kept in (torch.ones(4, ITEMS, dtype=torch.bool), allowed):
        found = search(config, 7, allowed=None if bool(kept.all()) else kept)
        best = everything(config, kept).sort(dim=1, descending=True, stable=True)
        torch.testing.assert_close(found.scores, best.values[:, :7].float(), rtol=0, atol=2e-5)
        assert bool(found.exact.all())
        if vector_weight:  # else the items of a beam are all alike, and rounding decides among beams alone
            assert torch.equal(found.items, best.indices[:, :7])


def test_without_weight_on_the_codes_it_is_the_dense_order():
    """Known answer: every semantic ID kept and only cosines counted."""
    found = search(BeamFusionConfig(num_beams=12, code_weight=0.0), ITEMS)
    expected = everything(BeamFusionConfig(num_beams=12, code_weight=0.0), torch.ones(4, ITEMS, dtype=torch.bool))
    assert torch.equal(found.items, expected.argsort(dim=1, descending=True, stable=True))


def test_few_beams_bring_the_items_of_their_semantic_ids_alone():
    _, catalog, _ = parts()
    found = search(BeamFusionConfig(num_beams=2), ITEMS, num_beams=ITEMS)
    few = search(BeamFusionConfig(num_beams=2), 2)
    rows = catalog.trie.lookup(catalog.item_codes)
    for user in range(4):
        shown = few.items[user][few.items[user] >= 0]
        assert torch.equal(few.codes[user, : len(shown)], catalog.item_codes[shown].int())
        assert rows[shown].unique().numel() <= 2
    assert not bool(few.exact.any())
    assert bool(found.exact.all())


def test_nobody_and_bad_questions():
    assert search(BeamFusionConfig(), 3, lengths=()).items.shape == (0, 3)
    with pytest.raises(InvalidValueError, match="beam_fusion: exact must be False"):
        search(BeamFusionConfig(), exact=True)
    layout, catalog, _ = parts()
    batch = layout(Batch(batch_of([2]).items))
    with pytest.raises(InvalidTypeError, match="beam_fusion: backbone must be CodesThenVectors"):
        BeamFusionConfig().build(catalog).search(RandomModel(SIZES), batch, catalog.trie, 2)


def test_a_user_without_any_item_left_gets_none():
    found = search(BeamFusionConfig(num_beams=12), 3, allowed=torch.zeros(ITEMS, dtype=torch.bool))
    assert found.items.tolist() == [[-1] * 3] * 4
    assert bool((found.codes == -1).all())

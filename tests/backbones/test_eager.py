from __future__ import annotations

import itertools

import pytest
import torch

from genrec_fast.backbones import EagerConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from shared.backbone_suite import SIZES, LastTarget, SearchedSuite
from shared.catalogs import coded, sized

CONFIG = EagerConfig(width=16, num_heads=2, encoder_layers=2, decoder_layers=1, hidden=24, dropout=0.0, max_items=6)


class TestEager(LastTarget, SearchedSuite):
    config = CONFIG
    op = "eager"
    whole_catalog = True


def four_levels():
    """Twelve items in two trees of 2 x 2 and 2 x 3 nodes, which know nothing of each other."""
    ways = torch.tensor(list(itertools.product((0, 1), (0, 1), (0, 1), (0, 1, 2))))
    codes = ways[torch.randperm(len(ways), generator=torch.Generator().manual_seed(3))[:12]]
    torch.manual_seed(0)
    catalog = coded(codes, (2, 2, 2, 3))
    return catalog, PlainConfig().build(catalog), CONFIG.build(catalog).eval()


def test_the_search_finds_the_best_sum_of_both_decoders():
    """Every item's score by hand: the log-probabilities of two decoders, each with its own part of the codes."""
    catalog, layout, backbone = four_levels()
    batch = layout(Batch(Jagged.from_rows([[0, 4, 2]])))
    scores = torch.zeros(12)
    for stream, memory, first in zip(backbone.streams, backbone.read(batch), (0, 2), strict=True):
        ways = stream.paths(catalog.item_codes[:, first : first + 2].long())
        states = stream.write(ways[:, :-1], memory, batch.items.offsets)
        for at in range(2):
            logits = stream.child_logits(states[:, at], ways[:, at], at)
            scores += logits.log_softmax(1).gather(1, catalog.item_codes[:, first + at, None].long())[:, 0]
    trie = build_trie(catalog.item_codes, codebook_sizes=catalog.codebook_sizes)
    found = BeamConfig(num_beams=12).build().search(backbone, batch, trie, 5, exact=True)
    best = scores.topk(5)
    assert found.items[0].tolist() == best.indices.tolist()
    torch.testing.assert_close(found.scores[0], best.values, rtol=1e-4, atol=1e-5)


def test_a_decoder_does_not_see_what_the_other_wrote():
    catalog, layout, backbone = four_levels()
    items, targets = Jagged.from_rows([[1, 5, 7]]), torch.tensor([-1, -1, 3])
    batch = layout(Batch(items, targets))
    first = catalog.item_codes[(catalog.item_codes[:, :2] != catalog.item_codes[3, :2]).any(1)][0, :2].long()
    other = batch.target_codes.clone()
    other[0, :2] = first
    one, two = (
        backbone.level_logits(Batch(items, targets, codes=batch.codes, target_codes=codes))
        for codes in (batch.target_codes, other)
    )
    assert torch.equal(one[2], two[2])
    assert torch.equal(one[3], two[3])


def test_a_catalog_without_semantic_ids_is_refused():
    with pytest.raises(InvalidValueError, match=r"^eager: catalog must have item_codes, got None"):
        CONFIG.build(sized(SIZES, 30))

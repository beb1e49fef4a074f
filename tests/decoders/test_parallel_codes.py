"""Searches where all codes are predicted at once: the look at every item, and the walk over a graph."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import GraphConfig, ScanCodesConfig, code_neighbours
from genrec_fast.decoders.base import Parts, run
from genrec_fast.decoders.scan_codes import item_codes_of
from genrec_fast.layouts import PlainConfig
from shared.catalogs import coded
from shared.decoder_suite import DecoderSuite, users_of

SIZES = (8, 8, 8)


class Heads:
    """A user's logits are sums over the items of the history; vectors of codes are random."""

    def __init__(self, sizes=SIZES, items=40, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.codebook_sizes = tuple(sizes)
        self.seen = [torch.randn(items, size, generator=generator) for size in sizes]
        self.base = [torch.randn(size, generator=generator) for size in sizes]
        self.tables = [torch.randn(size, 5, generator=generator) for size in sizes]

    def target_logits(self, batch):
        raise NotImplementedError

    def user_logits(self, batch):
        rows = batch.items.row_index()
        return [
            base.expand(len(batch), -1).index_add(0, rows, seen[batch.items.values])
            for base, seen in zip(self.base, self.seen, strict=True)
        ]

    def code_tables(self):
        return self.tables


def scores_of(model, batch, codes):
    """float64 [B, N], by hand."""
    levels = zip(model.user_logits(batch), codes.long().unbind(1), strict=True)
    return sum(part.double().log_softmax(1)[:, column] for part, column in levels)


class Codes(DecoderSuite):
    def backbone(self):
        return Heads()


class TestScanCodes(Codes):
    decoder = ScanCodesConfig().build()


class TestGraph(Codes):
    decoder = GraphConfig(num_beams=6, num_edges=5, num_steps=2).build()


class TestGraphOfEverything(Codes):
    decoder = GraphConfig(num_edges=40).build()


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 1000), st.booleans(), st.integers(1, 12))
@settings(max_examples=40)
def test_the_scan_is_a_sort_of_all_scores(items, k, seed, filtered, levels):
    generator = torch.Generator().manual_seed(seed)
    sizes = (5,) * levels
    codes = torch.randint(5, (items, levels), generator=generator)
    model, batch = Heads(sizes, items, seed), users_of(3, items, seed)
    allowed = torch.rand(3, items, generator=generator) < 0.5 if filtered else None
    exclude = (
        Jagged.from_rows([torch.randint(items, (3,), generator=generator) for _ in range(3)]) if filtered else None
    )
    parts = Parts(model, layout=PlainConfig().build(coded(codes, sizes)))
    found = run(ScanCodesConfig().build().begin(parts, batch, Query(k=k, allowed=allowed, exclude=exclude)))
    scores = scores_of(model, batch, codes)
    if filtered:
        scores = scores.masked_fill(~allowed, -torch.inf)
        scores[exclude.row_index(), exclude.values] = -torch.inf
    count = min(k, items)
    best = scores.sort(1, descending=True).values[:, :count]
    torch.testing.assert_close(found.scores[:, :count].double(), best, rtol=1e-5, atol=1e-5)
    shown = found.items >= 0
    true = scores.gather(1, found.items.clamp(min=0))[shown]
    torch.testing.assert_close(found.scores[shown].double(), true, rtol=1e-5, atol=1e-5)
    assert torch.equal(shown, found.scores > -torch.inf)
    assert torch.equal(found.codes[shown].long(), codes[found.items[shown]])
    assert bool(found.exact.all())
    assert bool((found.bound == -torch.inf).all())


def walk(codes, config, batch, k, sizes=(8,) * 4, **options):
    parts = Parts(Heads(sizes, len(codes)), layout=PlainConfig().build(coded(codes, sizes)))
    return run(config.build().begin(parts, batch, Query(k=k, **options)))


@pytest.mark.parametrize("config", [GraphConfig(num_edges=60), GraphConfig(num_beams=60, num_edges=3)])
def test_rpgs_known_answer(config):
    """60 items, 4 x 8 codes: with edges = N or beams = N the walk is the exhaustive mean log-probability."""
    codes = torch.randint(8, (60, 4), generator=torch.Generator().manual_seed(0))
    batch = users_of(5, 60, 0)
    found = walk(codes, config, batch, 10)
    means = scores_of(Heads((8,) * 4, 60), batch, codes) / 4
    best, order = means.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(found.scores.double() / 4, best[:, :10], rtol=1e-5, atol=1e-5)
    clear = (best[:, :10] - best[:, 1:11]) > 1e-5
    assert bool((found.items == order[:, :10])[clear].all())
    assert bool(found.exact.all())


def test_a_graph_that_is_walked_to_its_end_is_the_scan():
    """All edges but one, from one item: the walk itself sees everything, and says so."""
    codes = torch.randint(8, (60, 4), generator=torch.Generator().manual_seed(0))
    batch = users_of(5, 60, 0)
    exact = walk(codes, GraphConfig(num_edges=60), batch, 10)
    found = walk(codes, GraphConfig(num_beams=20, num_edges=59, num_steps=2), batch, 10)
    assert torch.equal(found.items, exact.items)
    assert torch.equal(found.scores, exact.scores)
    assert bool(found.exact.all())


def test_a_walk_says_how_far_it_may_be():
    codes = torch.randint(8, (900, 4), generator=torch.Generator().manual_seed(1))
    batch = users_of(9, 900, 1)
    exact = walk(codes, GraphConfig(), batch, 10, exact=True)
    found = walk(codes, GraphConfig(num_beams=10, num_edges=12, num_steps=3), batch, 10)
    assert bool(exact.exact.all())
    assert not bool(found.exact.any())
    assert bool((found.bound >= exact.scores[:, 0]).all())
    assert bool((found.scores <= exact.scores).all())
    best = [part.log_softmax(1).amax(1) for part in Heads((8,) * 4, 900).user_logits(batch)]
    torch.testing.assert_close(found.bound, sum(best))
    true = scores_of(Heads((8,) * 4, 900), batch, codes).gather(1, found.items)
    torch.testing.assert_close(found.scores.double(), true, rtol=1e-5, atol=1e-5)
    share = (found.items.unsqueeze(2) == exact.items.unsqueeze(1)).any(2).double().mean()
    assert float(share) > 0.2  # of random items it would be about 0.01


def test_more_steps_and_wider_walks_only_find_better_items():
    codes = torch.randint(8, (900, 4), generator=torch.Generator().manual_seed(1))
    batch, before = users_of(9, 900, 1), None
    for steps in (1, 2, 3, 6):
        found = walk(codes, GraphConfig(num_beams=10, num_edges=12, num_steps=steps), batch, 10)
        assert before is None or bool((found.scores >= before.scores).all())
        before = found


def test_a_users_answer_is_independent_of_the_others_widths():
    codes = torch.randint(8, (900, 4), generator=torch.Generator().manual_seed(1))
    batch, config = users_of(3, 900, 1), GraphConfig(num_edges=12, num_steps=2)
    found = walk(codes, config, batch, 5, num_beams=torch.tensor([9, 5, 9]))
    for width, users in ((9, [0, 2]), (5, [1])):
        alone = walk(codes, config, batch, 5, num_beams=width)
        assert torch.equal(found.items[users], alone.items[users])
        assert torch.equal(found.bound[users], alone.bound[users])
    assert walk(codes, config, users_of(0, 900, 1), 5, num_beams=torch.zeros(0, dtype=torch.int64)).items.shape == (
        0,
        5,
    )


def test_the_seed_says_where_a_walk_begins():
    codes = torch.randint(8, (900, 4), generator=torch.Generator().manual_seed(1))
    batch, config = users_of(4, 900, 1), GraphConfig(num_beams=5, num_edges=3, num_steps=1)
    one, again, other = (walk(codes, config, batch, 5, seed=seed).items for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_filter_that_leaves_too_few_is_answered_by_the_scan():
    codes = torch.randint(8, (900, 4), generator=torch.Generator().manual_seed(1))
    batch, config = users_of(4, 900, 1), GraphConfig(num_beams=10, num_edges=5, num_steps=1)
    allowed = torch.zeros(4, 900, dtype=torch.bool)
    allowed[:3, 5:9] = True
    allowed[3] = True
    found = walk(codes, config, batch, 10, allowed=allowed)
    assert found.items[:3].sort(1).values.tolist() == [[-1] * 6 + [5, 6, 7, 8]] * 3
    assert found.exact.tolist() == [True, True, True, False]
    assert bool((found.items[3] >= 0).all())


def test_neighbours_are_the_most_alike_by_hand():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(8, (70, 4), generator=generator).to(torch.uint8)
    tables = [torch.randn(8, 6, generator=generator) for _ in range(4)]
    near = code_neighbours(tables, codes, 9)
    alike = torch.zeros(70, 70, dtype=torch.float64)
    for table, column in zip(tables, codes.long().unbind(1), strict=True):
        unit = F.normalize(table.double(), dim=1)[column]
        alike += (1 + unit @ unit.T) / 2 / 4
    best = alike.sort(1, descending=True).values[:, :9]
    torch.testing.assert_close(alike.gather(1, near.long()), best, rtol=0, atol=1e-6)
    assert bool((near == torch.arange(70).unsqueeze(1)).any(1).all())
    assert near.dtype == torch.int32
    assert torch.equal(code_neighbours(tables, codes, 9, slice(20, 33)), near[20:33])
    assert torch.equal(code_neighbours(tables, codes, 72)[:, :70].sort(1).values, torch.arange(70).int().expand(70, -1))


def test_an_item_among_many_equals_is_its_own_neighbour():
    near = code_neighbours([torch.eye(2)], torch.zeros(20, 1, dtype=torch.uint8), 3)
    assert near[:3].tolist() == [[0, 1, 2]] * 3
    assert near[3:].tolist() == [[0, 1, item] for item in range(3, 20)]


def test_the_graph_follows_the_network():
    codes = torch.randint(8, (300, 3), generator=torch.Generator().manual_seed(1))
    model, batch = Heads(items=300), users_of(6, 300, 0)
    decoder = GraphConfig(num_beams=5, num_edges=4, num_steps=2).build()
    parts = Parts(model, layout=PlainConfig().build(coded(codes, SIZES)))

    def ask(with_decoder):
        return run(with_decoder.begin(parts, batch, Query(k=5))).items

    before = ask(decoder)
    for copied in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert torch.equal(ask(copied), before)
    model.tables[0].numpy()[:] = -model.tables[0].numpy()[::-1]  # no counter of torch's tells
    assert torch.equal(ask(decoder), ask(GraphConfig(num_beams=5, num_edges=4, num_steps=2).build()))
    assert not torch.equal(ask(decoder), before)


def test_codes_are_read_from_a_trie_where_there_is_no_layout():
    codes = torch.randint(8, (200, 3), generator=torch.Generator().manual_seed(0))
    trie = build_trie(codes, codebook_sizes=(8, 300, 8))
    for some in (trie, build_trie(codes[:150], codebook_sizes=(8, 300, 8)).extended(codes[150:]), trie.without([3])):
        assert torch.equal(item_codes_of("scan_codes", Parts(None, some)).long(), codes)


def test_an_items_own_level_stands_behind_its_codes():
    codes = torch.zeros(6, 1, dtype=torch.int64)  # all alike but for the items themselves
    parts = Parts(Heads((2, 6), 6), layout=PlainConfig().build(coded(codes, (2,))))
    batch = Batch(Jagged.from_rows([[1]]))
    of_code, of_items = (part.log_softmax(1) for part in parts.backbone.user_logits(batch))
    wanted = of_code[:, :1] + of_items
    for config in (ScanCodesConfig(), GraphConfig(num_beams=3, num_edges=3)):
        found = run(config.build().begin(parts, batch, Query(k=3)))
        assert torch.equal(found.scores, wanted.gather(1, found.items))
        assert len(set(found.items[0].tolist())) == 3
        assert found.codes.tolist() == [[[0], [0], [0]]]
    whole = run(ScanCodesConfig().build().begin(parts, batch, Query(k=3)))
    assert torch.equal(whole.items, wanted.sort(descending=True).indices[:, :3])


def test_messages_name_argument_rule_and_value():
    codes = torch.zeros(5, 2, dtype=torch.int64)
    layout, batch = PlainConfig().build(coded(codes, (2, 2))), users_of(2, 5, 0)
    for name, config in (("scan_codes", ScanCodesConfig()), ("graph", GraphConfig())):
        decoder = config.build()

        def ask(model, decoder=decoder, **options):
            return run(decoder.begin(Parts(model, layout=layout), batch, Query(**{"k": 1, **options})))

        with pytest.raises(InvalidTypeError, match=f"^{name}: backbone must be Parallel, got object"):
            ask(object())
        with pytest.raises(InvalidValueError, match=f"^{name}: k must be at least 1, got 0"):
            ask(Heads((2, 2), 5), k=0)
        with pytest.raises(InvalidValueError, match=f"^{name}: backbone must predict the catalog's 2 levels .* got 1"):
            ask(Heads((2,), 5))
        wide = PlainConfig().build(coded(torch.tensor([[0, 300]] * 5), (2, 400)))
        with pytest.raises(InvalidValueError, match=rf"^{name}: item_codes of level 1 must be in \[0, 2\).* got 300"):
            run(decoder.begin(Parts(Heads((2, 2), 5), layout=wide), batch, Query(k=1)))
        with pytest.raises(InvalidTypeError, match=f"^{name}: allowed must be bool, got int64"):
            ask(Heads((2, 2), 5), allowed=torch.ones(5, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match="graph: num_beams must be at least k = 3, got 2"):
        walk(codes, GraphConfig(), batch, 3, sizes=(2, 2), num_beams=2)
    with pytest.raises(InvalidValueError, match=r"graph: num_beams must be one number or one per user, got \(2, 2\)"):
        walk(codes, GraphConfig(), batch, 1, sizes=(2, 2), num_beams=(2, 2))
    with pytest.raises(InvalidValueError, match="scan_codes: system must have a layout with item_codes, or a trie"):
        ScanCodesConfig().build().search(Heads(), batch, None, 1)

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import DraftedItemsConfig, RetrieveConfig
from genrec_fast.decoders.base import Parts, run
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel


class Placed(RandomModel):
    """A random model that also places users and items."""

    def __init__(self, sizes, items, seed=0, **options):
        super().__init__(sizes, seed, **{"tree": True, **options})
        self.table = torch.randn(items, 5, generator=torch.Generator().manual_seed(seed))

    def embed_targets(self, batch):
        raise NotImplementedError

    def embed_users(self, batch):
        rows = [torch.tensor([len(row), *row.tolist()[:1]]).sum() for row in batch.items.rows()]
        return torch.stack([self.table[int(row) % len(self.table)] * 0.7 - 0.1 for row in rows])

    def item_table(self):
        return self.table


def plainly(model, batch, codes, k, config, keep, counts):
    """SpecGR word by word: lists of items, user by user."""
    items, levels = codes.tolist(), codes.shape[1]
    least = math.log(config.threshold) if config.threshold else -math.inf
    vectors = model.embed_users(batch).double() @ model.table.double().T
    out = []
    for user in range(len(batch)):
        one, said = model.prefill(batch.slice(user, user + 1)), {(): 0.0}

        def logprob(prefix, one=one, said=said):
            if prefix not in said:
                session = one
                for code in prefix[:-1]:
                    session = session.extend(torch.tensor([[code]]), torch.zeros(1, 1, dtype=torch.int64))
                logits = session.scores()[0][0, -1, : model.codebook_sizes[len(prefix) - 1]].double()
                said[prefix] = logprob(prefix[:-1]) + float(logits.log_softmax(0)[prefix[-1]])
            return said[prefix]

        def mean(item, logprob=logprob):
            whole = counts is None or counts[item] > 0 or not config.dedup or levels == 1
            return logprob(tuple(items[item])) / levels if whole else logprob(tuple(items[item][:-1])) / (levels - 1)

        left = [item for item in range(len(items)) if keep[user, item]]
        beams, accepted, rejected, drafted = [()], [], [], []
        for level in range(levels):
            there = [i for i in left if tuple(items[i][:level]) in beams and i not in drafted]
            drafts = sorted(there, key=lambda i: (-float(vectors[user, i]), i))[: config.num_drafts]
            drafted += drafts
            for item in drafts:
                (accepted if mean(item) > least else rejected).append(item)
            if len(accepted) >= k:
                break
            below = {tuple(items[i][: level + 1]) for i in left if tuple(items[i][:level]) in beams}
            beams = sorted(below, key=lambda prefix: -logprob(prefix))[: config.num_beams]
        fill = [(mean(i), i) for i in rejected]
        fill += [(logprob(tuple(items[i])) / levels, i) for i in left if tuple(items[i]) in beams and i not in drafted]
        fill = [item for _, item in sorted(fill, key=lambda pair: (-pair[0], pair[1]))]
        out.append((accepted + (fill if len(accepted) < k else []))[:k])
    return out


@st.composite
def searches(draw):
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    items = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    model = Placed(sizes, items, draw(st.integers(0, 1000)))
    users = draw(st.integers(1, 4))
    keep, asked = torch.ones(users, items, dtype=torch.bool), {}
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(items,), (users, items)]))
        asked["allowed"] = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.8]))
        keep &= asked["allowed"]
    if draw(st.booleans()):
        lengths = torch.randint(items, (users,), generator=generator).tolist()
        rows = [torch.randint(items, (n,), generator=generator) for n in lengths]
        asked["exclude"] = Jagged.from_rows(rows)
        for user, row in enumerate(rows):
            keep[user, row] = False
    counts = torch.randint(3, (items,), generator=generator) if draw(st.booleans()) else None
    config = DraftedItemsConfig(
        num_beams=draw(st.integers(1, 9)),
        num_drafts=draw(st.integers(1, 9)),
        threshold=draw(st.sampled_from([0.0, 0.11, 0.15, 0.2, 0.27, 1.0])),
        dedup=draw(st.booleans()),
    )
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=sizes, counts=counts)
    return model, users_of(users, items, draw(st.integers(0, 1000))), catalog, config, asked, keep


@given(searches(), st.integers(1, 12))
def test_it_is_specgr_word_by_word(case, k):
    model, batch, catalog, config, asked, keep = case
    found = config.build(catalog).search(model, batch, catalog.trie, k, **asked)
    wanted = plainly(model, batch, catalog.item_codes, k, config, keep, catalog.counts)
    assert [[i for i in row if i >= 0] for row in found.items.tolist()] == wanted
    assert torch.equal(found.codes[found.items >= 0], catalog.item_codes[found.items[found.items >= 0]].int())


def shop(items=200):
    codes = torch.randint(6, (items, 3), generator=torch.Generator().manual_seed(0))
    return Placed((6, 6, 6), items, 2), build_trie(codes, codebook_sizes=(6, 6, 6)), users_of(7, items, 3)


def test_without_a_threshold_it_is_the_drafters_order():
    model, trie, batch = shop()
    config = DraftedItemsConfig(threshold=0.0, num_drafts=20)
    running = config.build().begin(Parts(model, trie), batch, Query(k=10))
    found = run(running)
    wanted = RetrieveConfig().build().search(model, batch, trie, 10)
    assert torch.equal(found.items, wanted.items)
    assert running.passes == 1


def test_a_threshold_that_nothing_passes_leaves_the_networks_order():
    """All rows in the beams: every item by the mean log-probability of its codes."""
    model, trie, batch = shop()
    found = DraftedItemsConfig(threshold=1.0, num_beams=216).build().search(model, batch, trie, 10)
    plain = RandomModel((6, 6, 6), 2)
    wanted = gf.BeamConfig(num_beams=216).build().search(plain, batch, trie, 10)
    assert torch.equal(found.items, wanted.items)


def test_an_unseen_item_does_not_pay_for_its_last_code():
    """Its last code is as good as forbidden: accepted only where that does not count."""
    model, trie, batch = shop()
    last = model.logits
    model.logits = lambda state, level: (
        last(state, level) * 1.0 if level < 2 else last(state, level) - 1e4 * (torch.arange(6) > 0)
    )
    codes = trie.item_codes()
    counts = torch.where(codes[:, 2] > 0, 0, 1)  # nobody bought what the network cannot write
    catalog = gf.Catalog(item_codes=codes.int(), codebook_sizes=(6, 6, 6), counts=counts)
    for dedup in (True, False):
        config = DraftedItemsConfig(threshold=1e-4, num_drafts=20, dedup=dedup)
        found = config.build(catalog).search(model, batch, trie, 10)
        wanted = RetrieveConfig().build().search(model, batch, trie, 10)
        assert torch.equal(found.items, wanted.items) == dedup


def recommender(decoder):
    recipe = gf.recipes.liger()
    torch.manual_seed(0)
    codes = torch.randint(0, 6, (90, 3))
    catalog = gf.Catalog(
        item_codes=codes, codebook_sizes=(6, 6, 6), features=torch.randn(90, 4), counts=torch.randint(3, (90,))
    )
    backbone = gf.LigerConfig(width=16, num_layers=1, num_heads=2, head_width=8, hidden=32, text_hidden=(8,))
    model = gf.Recommender(dataclasses.replace(recipe, backbone=backbone, decoder=decoder), catalog)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def test_a_network_in_a_server_and_in_a_folder(tmp_path):
    model = recommender(DraftedItemsConfig(num_beams=8, num_drafts=6, threshold=0.18))
    histories = [[0, 3, 8], [5], [89, 88, 87, 1], [40, 41], [7, 7, 7]]
    together = model.recommend(histories, 5, exclude_seen=True)
    with model.batcher() as batcher:
        found = [batcher.submit([history], k=5, exclude_seen=True) for history in histories]
        assert torch.equal(torch.cat([future.result().items for future in found]), together.items)
    model.save(tmp_path)
    assert torch.equal(gf.load(tmp_path).recommend(histories, 5, exclude_seen=True).items, together.items)


def test_messages_name_argument_rule_and_value():
    model, trie, batch = shop()
    decoder = DraftedItemsConfig().build()
    with pytest.raises(InvalidValueError, match="drafted_items: exact must be False"):
        decoder.search(model, batch, trie, 5, exact=True)
    with pytest.raises(InvalidTypeError, match="drafted_items: num_beams must be"):
        decoder.search(model, batch, trie, 5, num_beams=(5, 5, 5))
    with pytest.raises(InvalidTypeError, match="backbone must be Autoregressive and Embedding, got RandomModel"):
        decoder.search(RandomModel((6, 6, 6)), batch, trie, 5)
    with pytest.raises(UnsupportedError, match=r"must be a TreeSession \(extend_tree\), got RandomSession"):
        decoder.search(Placed((6, 6, 6), 200, tree=False), batch, trie, 5)
    with pytest.raises(InvalidValueError, match=r"DraftedItemsConfig: threshold must be in \[0, 1\], got -1.8"):
        DraftedItemsConfig(threshold=-1.8)


class TestSuite(DecoderSuite):
    decoder = DraftedItemsConfig().build()

    def backbone(self):
        return Placed((8, 8, 8), self.items, 3)

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.decoders.retrieve import _in_blocks
from shared.decoder_suite import DecoderSuite, users_of


def search(model, batch, k, *, items_per_block=65536, index=None, **options):
    decoder = RetrieveConfig(items_per_block=items_per_block).build()
    decoder.index = index
    return decoder.search(model, batch, None, k, **options)


class Vectors:
    """A user is the sum of the user's item vectors plus one; small integers, so that inner products are exact."""

    def __init__(self, items, dim=3, seed=0):
        self.table = torch.randint(-2, 3, (items, dim), generator=torch.Generator().manual_seed(seed)).float()

    def embed_targets(self, batch):
        raise NotImplementedError

    def embed_users(self, batch: Batch):
        sums = torch.ones(len(batch), self.table.shape[1])
        return sums.index_add_(0, batch.items.row_index(), self.table[batch.items.values])

    def item_table(self):
        return self.table


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 70), st.integers(0, 1000), st.booleans())
def test_it_is_a_stable_sort_of_all_scores(items, k, block, seed, filtered):
    model, batch = Vectors(items, seed=seed), users_of(3, items, seed)
    generator = torch.Generator().manual_seed(seed)
    keep = torch.ones(3, items, dtype=torch.bool)
    allowed = exclude = None
    if filtered:
        allowed = torch.rand(3, items, generator=generator) < 0.5
        exclude = Jagged.from_rows([torch.randint(items, (3,), generator=generator) for _ in range(3)])
        keep &= allowed
        for user in range(3):
            keep[user, exclude[user]] = False
    found = search(model, batch, k, items_per_block=block, allowed=allowed, exclude=exclude)
    scores = (model.embed_users(batch) @ model.table.T).masked_fill(~keep, -torch.inf)
    best, order = torch.sort(scores, dim=1, descending=True, stable=True)
    count = min(k, items)
    assert torch.equal(found.scores[:, :count], best[:, :k])
    assert torch.equal(found.items[:, :count], torch.where(best > -torch.inf, order, -1)[:, :k])
    assert bool((found.items[:, count:] == -1).all())
    assert torch.equal(found.codes.squeeze(2).long(), found.items)
    assert bool(found.exact.all())
    assert bool((found.bound == -torch.inf).all())


def test_one_bitmap_serves_all_users():
    allowed = torch.arange(10) >= 8
    found = search(Vectors(10), users_of(4, 10, 0), 3, allowed=allowed)
    assert found.items.sort(1).values.tolist() == [[-1, 8, 9]] * 4


def test_messages_name_argument_rule_and_value():
    model, batch = Vectors(5), users_of(2, 5, 0)
    with pytest.raises(InvalidTypeError, match="retrieve: backbone must be Embedding, got int"):
        search(3, batch, 1)
    with pytest.raises(InvalidValueError, match="retrieve: k must be at least 1, got 0"):
        search(model, batch, 0)
    with pytest.raises(InvalidTypeError, match="retrieve: allowed must be bool, got int64"):
        search(model, batch, 1, allowed=torch.ones(5, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match=r"retrieve: exclude must hold item ids in \[0, 5\), got 9"):
        search(model, batch, 1, exclude=Jagged.from_rows([[1], [9]]))
    model.table[3, 0] = torch.nan
    with pytest.raises(InvalidValueError, match="table must be finite, got NaN or infinity in row 3"):
        search(model, Batch(Jagged.from_rows([[], []])), 1)
    with pytest.raises(InvalidValueError, match="RetrieveConfig: items_per_block must be at least 1, got 0"):
        RetrieveConfig(items_per_block=0)


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 70), st.integers(0, 1000))
def test_the_path_of_other_devices_gives_the_same(items, k, block, seed):
    model, batch = Vectors(items, seed=seed), users_of(3, items, seed)
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(3, items, generator=generator) < 0.5
    exclude = Jagged.from_rows([torch.randint(items, (3,), generator=generator) for _ in range(3)])
    found = search(model, batch, k, allowed=allowed, exclude=exclude)
    scores, ids = _in_blocks(model.embed_users(batch), model.table, k, block, allowed, exclude)
    assert torch.equal(found.scores, scores)
    assert torch.equal(found.items, ids)


@pytest.mark.parametrize("kind", ["Flat", "HNSW16", "IVF2,Flat"])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_faiss_index_finds_what_it_finds(kind, filtered):
    faiss = pytest.importorskip("faiss")
    model, batch = Vectors(100, dim=8), users_of(5, 100, 1)
    index = faiss.index_factory(8, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(model.table.numpy())
    index.add(model.table.numpy())
    if "IVF" in kind:
        index.nprobe = 2
    generator = torch.Generator().manual_seed(5)
    options = {}
    if filtered:
        options["allowed"] = torch.rand(5, 100, generator=generator) < 0.1
        options["exclude"] = Jagged.from_rows([torch.randint(100, (n * 10,), generator=generator) for n in range(5)])
    decoder = RetrieveConfig().build()
    wanted = decoder.search(model, batch, None, 6, **options)
    decoder.index = index
    found = decoder.search(model, batch, None, 6, **options)
    assert bool(found.exact.all()) == (kind == "Flat")
    assert bool((found.bound == (-torch.inf if kind == "Flat" else torch.inf)).all())
    if kind != "HNSW16":  # every list is probed: small integers come out exactly
        assert torch.equal(found.scores, wanted.scores)
    users = model.embed_users(batch)
    for user, (items, scores) in enumerate(zip(found.items, found.scores, strict=True)):
        assert torch.equal((users[user] @ model.table.T)[items[items >= 0]], scores[items >= 0])
        if filtered:
            shown = items[items >= 0]
            assert bool(options["allowed"][user, shown].all())
            assert not bool(torch.isin(shown, options["exclude"][user]).any())
    assert bool(decoder.search(model, batch, None, 6, exact=True, **options).exact.all())


def test_an_index_must_fit():
    faiss = pytest.importorskip("faiss")
    model, batch = Vectors(10, dim=4), users_of(2, 10, 1)
    with pytest.raises(InvalidTypeError, match="index must be a faiss index, got list"):
        search(model, batch, 1, index=[])
    for index in (faiss.IndexFlatIP(4), faiss.IndexFlatL2(4), faiss.IndexFlatIP(3)):
        with pytest.raises(InvalidValueError, match="index must hold 10 vectors of width 4 under the inner product"):
            search(model, batch, 1, index=index)
    full = faiss.IndexFlatIP(4)
    full.add(model.table.numpy())
    assert search(model, users_of(0, 10, 0), 3, index=full).items.shape == (0, 3)
    assert search(model, batch, 12, index=full).items[:, 10:].tolist() == [[-1, -1]] * 2


class TestSuite(DecoderSuite):
    decoder = RetrieveConfig(items_per_block=16).build()
    num_levels = 1

    def backbone(self):
        return Vectors(self.items)

    def trie(self):
        return None

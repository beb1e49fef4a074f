from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.decoders import RetrieveConfig
from genrec_fast.decoders.retrieve import search
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.types import Batch, Jagged
from shared.decoder_suite import DecoderSuite, users_of


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
    with pytest.raises(InvalidValueError, match="retrieve: scores must not be NaN, got NaN for user 0, item 3"):
        search(model, Batch(Jagged.from_rows([[], []])), 1)
    with pytest.raises(InvalidValueError, match="RetrieveConfig: items_per_block must be at least 1, got 0"):
        RetrieveConfig(items_per_block=0)


class TestSuite(DecoderSuite):
    decoder = RetrieveConfig(items_per_block=16).build()
    num_levels = 1

    def backbone(self):
        return Vectors(self.items)

    def trie(self):
        return None

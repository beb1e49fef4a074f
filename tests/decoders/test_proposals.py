"""Proposals against a plain list of what each proposer gives, and against all items where they are all proposed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.summed import Summed
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, ProposalsConfig, ScanConfig
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel

SIZES = (8, 8, 8)
WIDTH, TEXT = 3, 4


class Summing(RandomModel):
    """Small whole numbers, so that sums are exact whatever their order, and ties are many."""

    def __init__(self, items, seed):
        super().__init__(SIZES, seed)
        self.num_items = items
        self.table = self._numbers(seed, items, WIDTH + TEXT)

    def _numbers(self, seed, *shape):
        return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()

    def summed_scores(self, batch):
        seeds = [1 + sum((place + 2) * item for place, item in enumerate(row.tolist())) for row in batch.items.rows()]
        vectors = torch.cat([torch.empty(0, WIDTH + TEXT), *(self._numbers(s, 1, WIDTH + TEXT) for s in seeds)])
        known = [
            torch.randint(self.num_items, (s % 9,), generator=torch.Generator().manual_seed(s)) for s in seeds
        ]  # an item may stand there twice
        values = torch.cat(
            [torch.empty(0), *(self._numbers(s + 1, len(row)) for s, row in zip(seeds, known, strict=True))]
        )
        most = vectors[:, :WIDTH].norm(dim=1) * self.table[:, :WIDTH].norm(dim=1).max()
        rows = Jagged.from_rows(known) if known else Jagged(torch.empty(0).long(), torch.zeros(1).long())
        return Summed(
            vectors, self.table, rows, values, vectors[:, WIDTH:].contiguous(), self.table[:, WIDTH:].contiguous(), most
        )

    def score_items(self, batch):
        summed = self.summed_scores(batch)
        scores = summed.vectors @ summed.table.T
        for user, (items, values) in enumerate(rows_of(summed)):
            for item, value in zip(items, values, strict=True):
                scores[user, item] += value
        return scores


def rows_of(summed):
    values = Jagged(summed.values, summed.known.offsets)
    return [(items.tolist(), own.tolist()) for items, own in zip(summed.known.rows(), values.rows(), strict=True)]


def catalog(items, seed=1):
    codes = torch.randint(8, (items, 3), generator=torch.Generator().manual_seed(seed))
    return codes, build_trie(codes, codebook_sizes=SIZES)


class TestProposals(DecoderSuite):
    decoder = ProposalsConfig(num_beams=6, num_known=3, num_alike=5).build()

    def backbone(self):
        return Summing(self.items, 3)


def plain(model, batch, trie, config, k, allowed, exclude):
    """Per user the proposed items in order, their scores, and the scores of all that may appear."""
    n_beams, n_known, n_alike = (max(k, n) for n in (config.num_beams, config.num_known, config.num_alike))
    options = {"allowed": allowed, "exclude": exclude}
    written = BeamConfig(num_beams=n_beams).build().search(model, batch, trie, n_beams, **options).items.tolist()
    scores, summed, answers = model.score_items(batch), model.summed_scores(batch), []
    for user, (items, values) in enumerate(rows_of(summed)):
        may = [i for i in range(model.num_items) if allowed[user, i] and i not in exclude[user].tolist()]
        like = {i: float(summed.wishes[user] @ summed.texts[i]) for i in may}
        known = {}
        for item, value in zip(items, values, strict=True):
            if item in may:
                known[item] = known.get(item, 0.0) + value
        proposed = {item for item in written[user] if item >= 0}
        proposed |= set(sorted(like, key=lambda i: (-like[i], i))[:n_alike])
        proposed |= set(sorted(known, key=lambda i: (-known[i], i))[:n_known])
        own = {i: float(scores[user, i]) for i in may}
        answers.append((sorted(proposed, key=lambda i: (-own[i], i))[:k], proposed, own))
    return answers


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_it_is_the_plain_union_and_what_it_left_is_bounded(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    items, users, k = draw(1, 60), draw(0, 5), draw(1, 12)
    model, batch = Summing(items, draw(0, 99)), users_of(users, items, draw(0, 99))
    _, trie = catalog(items)
    config = ProposalsConfig(num_beams=draw(1, 8), num_known=draw(1, 6), num_alike=draw(1, 12))
    generator = torch.Generator().manual_seed(draw(0, 99))
    allowed = torch.rand(users, items, generator=generator) < data.draw(st.sampled_from([0.1, 0.6, 2.0]))
    rows = [torch.randint(items, (draw(0, 4),), generator=generator) for _ in range(users)]
    exclude = Jagged.from_rows(rows) if rows else Jagged(torch.empty(0).long(), torch.zeros(1).long())
    found = config.build().search(model, batch, trie, k, allowed=allowed, exclude=exclude)
    assert tuple(found.items.shape) == (users, k)
    for user, (best, proposed, own) in enumerate(plain(model, batch, trie, config, k, allowed, exclude)):
        shown = found.items[user].tolist()
        assert shown == best + [-1] * (k - len(best))
        assert found.scores[user, : len(best)].tolist() == [own[item] for item in best]
        assert all(own[item] <= float(found.bound[user]) for item in own if item not in proposed)
        if bool(found.exact[user]):
            assert best == sorted(own, key=lambda i: (-own[i], i))[:k]


def test_where_everything_is_proposed_it_is_the_scan():
    model, batch = Summing(40, 5), users_of(7, 40, 1)
    codes, trie = catalog(40)
    exclude = Jagged.from_rows([[1, 2], [], [3], [], [], [0], [39]])
    for alike, beams in ((40, 1), (1, 512)):  # by texts alone, by beams alone
        config = ProposalsConfig(num_alike=alike, num_beams=beams, num_known=1)
        found = config.build().search(model, batch, trie, 10, exclude=exclude)
        every = ScanConfig().build().search(model, batch, None, 10, exclude=exclude)
        assert torch.equal(found.items, every.items)
        assert torch.equal(found.scores, every.scores)
        assert found.exact.all()
        assert torch.equal(found.codes, codes[found.items].int())


def test_an_answer_is_proven_by_its_bound_alone():
    """The network says nothing, one item is known to be far better: the texts' tail cannot reach it."""

    class Known(Summing):
        def summed_scores(self, batch):
            summed = super().summed_scores(batch)
            known = Jagged(torch.tensor([7]), torch.tensor([0, 1]))
            return summed._replace(known=known, values=torch.tensor([1000.0]), most=torch.tensor([6.0 * 12**0.5]))

    _, trie = catalog(40)
    config = ProposalsConfig(num_beams=1, num_known=1, num_alike=1)
    found = config.build().search(Known(40, 2), Batch(Jagged.from_rows([[1, 2]])), trie, 1)
    assert found.items.tolist() == [[7]]
    assert -torch.inf < float(found.bound) < float(found.scores)
    assert found.exact.tolist() == [True]


def test_an_index_that_is_not_flat_proves_nothing():
    faiss = pytest.importorskip("faiss")
    model, batch = Summing(40, 5), users_of(3, 40, 1)
    _, trie = catalog(40)
    texts = model.summed_scores(batch).texts.numpy()
    decoder = ProposalsConfig(num_alike=4, num_beams=1, num_known=1).build()
    plain_found = decoder.search(model, batch, trie, 3)
    decoder.index = faiss.index_factory(TEXT, "HNSW8", faiss.METRIC_INNER_PRODUCT)
    decoder.index.add(texts)
    found = decoder.search(model, batch, trie, 3)
    assert not found.exact.any()
    assert bool((found.bound == torch.inf).all())
    assert bool(plain_found.bound.isfinite().all())


def test_what_does_not_fit_is_refused():
    _, trie = catalog(40)
    batch, decoder = users_of(2, 40, 0), ProposalsConfig().build()
    with pytest.raises(
        InvalidTypeError, match=r"^proposals: backbone must be SummedScores and Autoregressive, got Ran"
    ):
        decoder.search(RandomModel(SIZES), batch, trie, 1)
    with pytest.raises(InvalidValueError, match=r"^proposals: exact must be False: proposals are not all items"):
        decoder.search(Summing(40, 0), batch, trie, 1, exact=True)
    with pytest.raises(InvalidValueError, match=r"^proposals: k must be at least 1, got 0"):
        decoder.search(Summing(40, 0), batch, trie, 0)
    with pytest.raises(InvalidValueError, match=r"^proposals: allowed must be \[40\] or \[2, 40\], got \[3\]"):
        decoder.search(Summing(40, 0), batch, trie, 1, allowed=torch.ones(3, dtype=torch.bool))
    broken = Summing(40, 0)
    broken.table[:, 0] = torch.nan
    with pytest.raises(InvalidValueError, match=r"^proposals: scores must be finite, got NaN or inf"):
        decoder.search(broken, batch, trie, 1)

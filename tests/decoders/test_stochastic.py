from __future__ import annotations

import itertools

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import StochasticBeamConfig
from genrec_fast.decoders.noise import seeds_of_rows
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel

CODES = torch.tensor([[0, 0], [0, 1], [0, 3], [1, 2], [2, 0], [2, 1], [2, 1]])  # the last two share an ID


class Constant:
    """The same logits for everybody, so that many users are many draws from one distribution."""

    codebook_sizes = (4, 4)
    first = torch.tensor([1.0, 0.2, -0.5, 9.0])  # no item begins with 3: it must not matter
    second = torch.tensor([[0.3, -1.0, 5.0, 0.8], [0.0, 0.0, 1.0, 2.0], [0.1, 0.4, 3.0, 3.0], [0.0] * 4])

    def prefill(self, batch):
        return Stated(self.first.expand(self.users, 1, 4))


class Stated:
    """A session of known logits."""

    def __init__(self, logits):
        self.logits = logits

    def scores(self, span=None, *, log_sums=False):
        return self.logits, None

    def extend(self, codes, parents):
        return Stated(Constant.second[codes.long()])

    def search(self, trie, plan, paid):
        return None


def distribution(keep=None):
    """Probability of each distinct semantic ID, in the trie's order, over what may appear."""
    ids = CODES.unique(dim=0) if keep is None else CODES[keep].unique(dim=0)
    first = Constant.first[ids[:, 0].unique()].softmax(0)
    out = []
    for code, share in zip(ids[:, 0].unique().tolist(), first.tolist(), strict=True):
        children = ids[ids[:, 0] == code, 1]
        out += [share * p for p in Constant.second[code][children].softmax(0).tolist()]
    return ids, torch.tensor(out, dtype=torch.float64)


def draw(users, k, *, seed=0, beams=None, **options):
    """``Ranked`` of users with histories of their own."""
    model = Constant()
    model.users = users
    batch = Batch(Jagged.from_rows([[user % 97, user // 97] for user in range(users)]))
    decoder = StochasticBeamConfig(seed=seed, num_beams=max(k, 5)).build()
    return decoder.search(model, batch, build_trie(CODES, codebook_sizes=(4, 4)), k, num_beams=beams, **options)


def chi_square(counts, expected):
    return float(((counts - expected).square() / expected).sum())


def row_of(codes, ids):
    return (codes.unsqueeze(-2) == ids.int()).all(-1).long().argmax(-1)


def test_the_first_draw_follows_the_model():
    ids, p = distribution()
    found = draw(20_000, 1)
    counts = torch.bincount(row_of(found.codes[:, 0], ids), minlength=len(ids)).double()
    assert chi_square(counts, 20_000 * p) < 25.7  # 5 degrees of freedom: one in ten thousand


def test_two_draws_are_without_replacement():
    """P(i, then j) = p_i p_j / (1 - p_i)."""
    ids, p = distribution()
    found = draw(40_000, 2, seed=3)  # of a shared ID both items come: ask for the first two IDs
    rows = row_of(found.codes, ids)
    shared = int((CODES[5] == ids).all(1).nonzero())
    pairs = rows[rows[:, 0] != shared]
    counts = torch.zeros(len(ids), len(ids), dtype=torch.float64)
    counts.index_put_((pairs[:, 0], pairs[:, 1]), torch.ones(len(pairs), dtype=torch.float64), accumulate=True)
    cells = [(i, j) for i, j in itertools.permutations(range(len(ids)), 2) if i != shared]
    assert counts.sum() == sum(counts[cell] for cell in cells)
    expected = torch.stack([40_000 * p[i] * p[j] / (1 - p[i]) for i, j in cells])
    assert chi_square(torch.stack([counts[cell] for cell in cells]), expected) < 58.0  # 25 cells


def test_a_filter_takes_its_share_away():
    keep = torch.tensor([True, False, True, True, False, False, True])
    ids, p = distribution(keep)
    found = draw(20_000, 1, allowed=keep)
    assert bool(keep[found.items].all())
    counts = torch.bincount(row_of(found.codes[:, 0], ids), minlength=len(ids)).double()
    assert chi_square(counts, 20_000 * p) < 21.1  # 3 degrees of freedom


def test_scores_are_log_probabilities_in_the_order_of_the_draw():
    ids, p = distribution()
    found = draw(500, 7)
    assert torch.equal(found.items.sort(1).values, torch.arange(7).expand(500, -1))
    torch.testing.assert_close(found.scores, p[row_of(found.codes, ids)].log().float(), rtol=0, atol=1e-6)
    assert not bool((found.scores[:, 1:] <= found.scores[:, :-1]).all())
    assert not bool(found.exact.any())
    assert bool((found.bound == torch.inf).all())


def test_more_items_than_there_are():
    found = draw(4, 9)
    assert bool((found.items[:, 7:] == -1).all())
    assert bool((found.scores[:, 7:] == -torch.inf).all())


def test_wider_beams_draw_the_same():
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(6, (60, 3), generator=generator)
    trie, batch = build_trie(codes, codebook_sizes=(6, 6, 6)), users_of(12, 60, 1)
    model = RandomModel((6, 6, 6), 2)
    decoder = StochasticBeamConfig(num_beams=4, seed=9).build()
    narrow = decoder.search(model, batch, trie, 4)
    for beams in (5, 20, 500):
        wide = decoder.search(model, batch, trie, 4, num_beams=beams)
        assert torch.equal(narrow.items, wide.items)
        torch.testing.assert_close(narrow.scores, wide.scores)


def test_a_seed_names_the_draw():
    assert torch.equal(draw(50, 3, seed=1).items, draw(50, 3, seed=1).items)
    assert not torch.equal(draw(50, 3, seed=1).items, draw(50, 3, seed=2).items)
    assert not torch.equal(draw(50, 3, seed=1).items, draw(50, 3, seed=-1).items)


def test_seeds_of_rows_know_order_and_length():
    rows = Jagged.from_rows([[], [0], [0, 0], [1, 2], [2, 1], [3], [1, 2]])
    seeds = seeds_of_rows(7, rows).tolist()
    assert len(set(seeds)) == 6
    assert seeds[3] == seeds[6]
    assert seeds[3] == seeds_of_rows(7, Jagged.from_rows([[1, 2]])).item()


def test_messages():
    with pytest.raises(InvalidTypeError, match=r"StochasticBeamConfig: seed must be an int, got 1\.5"):
        StochasticBeamConfig(seed=1.5)
    with pytest.raises(InvalidValueError, match="StochasticBeamConfig: seed must fit 64 bits, got 9223372036854775808"):
        StochasticBeamConfig(seed=1 << 63)
    with pytest.raises(InvalidValueError, match="StochasticBeamConfig: num_beams must be at least 1, got 0"):
        StochasticBeamConfig(num_beams=0)
    with pytest.raises(InvalidValueError, match="stochastic_beam: exact must be False"):
        draw(2, 2, exact=True)
    with pytest.raises(InvalidValueError, match="stochastic_beam: num_beams must be at least k = 3, got 2"):
        draw(2, 3, beams=2)
    model = RandomModel((4, 4), 0)
    model.prefill = lambda batch: Stated(torch.full((len(batch), 1, 4), torch.nan))
    with pytest.raises(InvalidValueError, match="logits must not be NaN"):
        StochasticBeamConfig().build().search(model, users_of(2, 5, 0), build_trie(CODES, codebook_sizes=(4, 4)), 1)


class TestSuite(DecoderSuite):
    decoder = StochasticBeamConfig(num_beams=20).build()

    def test_shapes_dtypes_and_order(self):
        found = self.search(users_of(6, self.items, 0))
        assert (found.items.dtype, tuple(found.items.shape)) == (torch.int64, (6, 5))
        assert (found.codes.dtype, tuple(found.codes.shape)) == (torch.int32, (6, 5, self.num_levels))
        assert (found.scores.dtype, tuple(found.scores.shape)) == (torch.float32, (6, 5))
        assert (found.exact.dtype, tuple(found.exact.shape)) == (torch.bool, (6,))
        assert torch.equal(found.items >= 0, found.scores > -torch.inf)

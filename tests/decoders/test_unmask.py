"""The search that writes codes in any order, against an enumeration of every way to every item."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.decoders import UnmaskConfig
from genrec_fast.decoders.base import Parts, run
from genrec_fast.decoders.items_by_codes import ItemsByCodes
from genrec_fast.layouts import PlainConfig
from shared.catalogs import coded
from shared.decoder_suite import DecoderSuite, users_of


class Masked:
    """Log-probabilities that follow from the history and from what is written, and look random."""

    def __init__(self, sizes=(8, 8, 8), flat=False):
        self.codebook_sizes, self.flat = tuple(sizes), flat
        self.rows_read = 0

    def read(self, batch):
        return torch.tensor([float(sum(row.tolist()) % 11) for row in batch.items.rows()])

    read_targets = read

    def code_logprobs(self, histories, written):
        self.rows_read += written.shape[0] * written.shape[1]
        assert written.dtype == torch.int64
        primes = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0][: written.shape[2]])
        state = histories[:, None] * 1.7 + ((written + 1).double() * primes.double()).sum(2)
        found = []
        for level, size in enumerate(self.codebook_sizes):
            logits = torch.sin(state.unsqueeze(2) * 0.9 + torch.arange(size) * 2.3 + level) * 3
            found.append((logits * (not self.flat)).log_softmax(2).float())
        return found


def every_way(model, row, codes, config, keep=None):
    """float64 [N]: the score of each item by its best way, all ways tried; -inf where none leads to it."""
    levels = codes.shape[1]
    own = codes if keep is None else codes[keep]
    rows, history = {((-1,) * levels, (-1,) * levels): 0.0}, torch.tensor([row])
    for step in range(levels):
        if step % config.codes_per_step == 0:
            merged = {}
            for (written, _), score in rows.items():
                merged[written, written] = max(score, merged.get((written, written), -torch.inf))
            rows = merged
        after = {}
        for (written, read), score in rows.items():
            known = torch.tensor(written)
            fits = own[((known < 0) | (known == own)).all(1)]
            if not len(fits):
                continue
            told = model.code_logprobs(history, torch.tensor(read).view(1, 1, -1))
            open_ = {level: fits[:, level].unique().tolist() for level in range(levels) if written[level] < 0}
            if config.order == "confident":
                best = {level: max(float(told[level][0, 0, code]) for code in some) for level, some in open_.items()}
                first = min(level for level in best if best[level] == max(best.values()))
                open_ = {first: open_[first]}
            for level, some in open_.items():
                for code in some:
                    longer = (*written[:level], code, *written[level + 1 :])
                    total = score + float(told[level][0, 0, code])
                    after[longer, read] = max(total, after.get((longer, read), -torch.inf))
        rows = after
    best = {}
    for (written, _), score in rows.items():
        best[written] = max(score, best.get(written, -torch.inf))
    scores = torch.tensor([best.get(tuple(item), -torch.inf) for item in codes.tolist()], dtype=torch.float64)
    return scores if keep is None else scores.masked_fill(~keep, -torch.inf)


def ask(model, codes, batch, config, **options):
    parts = Parts(model, layout=PlainConfig().build(coded(codes, model.codebook_sizes)))
    return run(config.build().begin(parts, batch, Query(**{"k": 5, **options})))


CONFIGS = [
    UnmaskConfig(num_beams=8, codes_per_step=step, order=order)
    for step, order in itertools.product((1, 2, 3), ("confident", "any"))
]


class Suite(DecoderSuite):
    def backbone(self):
        return Masked()


class TestConfident(Suite):
    decoder = UnmaskConfig(num_beams=6).build()


class TestAny(Suite):
    decoder = UnmaskConfig(num_beams=6, order="any").build()


class TestSeveralCodesAtOnce(Suite):
    decoder = UnmaskConfig(num_beams=6, codes_per_step=2, order="any").build()


def test_the_known_answer_of_diffgrm_and_llada_rec():
    """2 levels of 3 codes, all 9 semantic IDs: the best is the best of both orders, by enumeration."""
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    model, batch = Masked((3, 3)), users_of(4, 9, 0)
    nothing = torch.full((4, 1, 2), -1)
    first, second = model.code_logprobs(model.read(batch), nothing)
    behind_first = model.code_logprobs(model.read(batch), torch.tensor([[0, -1], [1, -1], [2, -1]]).expand(4, -1, -1))
    behind_second = model.code_logprobs(model.read(batch), torch.tensor([[-1, 0], [-1, 1], [-1, 2]]).expand(4, -1, -1))
    one = first[:, 0, :, None] + behind_first[1]
    other = (second[:, 0, :, None] + behind_second[0]).transpose(1, 2)
    best, order = torch.maximum(one, other).flatten(1).sort(descending=True)
    found = ask(model, codes, batch, UnmaskConfig(num_beams=9, order="any"), k=9)
    torch.testing.assert_close(found.scores, best)
    assert torch.equal(found.items[:, 0], order[:, 0])
    assert bool(found.exact.all())


@pytest.mark.parametrize("width", [1, 30, 700, 1500])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_whatever_the_width_what_is_lost_is_below_the_bound(step, width):
    """Here all 625 semantic IDs of 4 levels are items; a search holds 1,500 rows at most, 12 ways lead to one."""
    config = UnmaskConfig(codes_per_step=step, order="any")
    codes = torch.cartesian_prod(*[torch.arange(5)] * 4)
    model, batch = Masked((5,) * 4), users_of(1, 625, 1)
    found = ask(model, codes, batch, config, k=min(width, 625), num_beams=width)
    best = every_way(model, int(batch.items.values.sum()) % 11, codes, config)
    there = found.items[0][found.items[0] >= 0]
    lost = torch.ones(625, dtype=torch.bool).index_fill(0, there, False)
    assert bool((best[lost] <= float(found.bound) + 1e-5).all())
    assert width < 1500 or (len(there) == 625 and bool(found.exact))


@given(
    st.sampled_from(CONFIGS), st.integers(1, 25), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 999)
)
@settings(max_examples=40, deadline=None)
def test_a_wide_search_is_the_enumeration(config, items, levels, filtered, exact, seed):
    """Of so many beams, or widened from 8, with items that share codes and with filters."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(4, (items, levels), generator=generator)
    model, batch = Masked((4,) * levels), users_of(2, items, seed)
    allowed = exclude = None
    keep = torch.ones(2, items, dtype=torch.bool)
    if filtered:
        allowed = torch.rand(2, items, generator=generator) < 0.6
        exclude = Jagged.from_rows([torch.randint(items, (2,), generator=generator) for _ in range(2)])
        keep = allowed.clone()
        keep[exclude.row_index(), exclude.values] = False
    width = {"exact": True} if exact else {"num_beams": 4096}
    found = ask(model, codes, batch, config, allowed=allowed, exclude=exclude, **width)
    assert bool(found.exact.all())
    for user, row in enumerate(model.read(batch).tolist()):
        scores = every_way(model, row, codes, config, keep[user])
        best = scores.sort(descending=True).values[:5]
        count = int((best > -torch.inf).sum())
        torch.testing.assert_close(found.scores[user, :count].double(), best[:count], rtol=1e-5, atol=1e-5)
        shown = found.items[user, :count]
        torch.testing.assert_close(scores[shown], found.scores[user, :count].double(), rtol=1e-5, atol=1e-5)
        assert len(set(shown.tolist())) == count
        assert torch.equal(found.codes[user, :count].long(), codes[shown])
        assert found.items[user, count:].tolist() == [-1] * (5 - count)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_narrow_search_says_of_its_answer_holds(config):
    codes = torch.randint(6, (150, 4), generator=torch.Generator().manual_seed(1))
    model, batch = Masked((6,) * 4), users_of(4, 150, 1)
    found = ask(model, codes, batch, config, num_beams=5)
    for user, row in enumerate(model.read(batch).tolist()):
        scores = every_way(model, row, codes, config)
        assert bool((scores[found.items[user]] >= found.scores[user] - 1e-5).all())
        others = scores.clone()
        others[found.items[user]] = -torch.inf
        assert float(others.max()) <= max(float(found.bound[user]), float(found.scores[user, -1])) + 1e-5
        if bool(found.exact[user]):
            best = scores.sort(descending=True).values[:5]
            torch.testing.assert_close(found.scores[user].double(), best, rtol=1e-5, atol=1e-5)
    assert not bool(found.exact.all())


def test_two_orders_that_lead_to_the_same_codes_are_one_beam():
    """Of one item of 4 codes there are 4, 6, 4 and 1 partly written semantic IDs, not 4, 12, 24 and 24."""
    model = Masked((5,) * 4)
    codes = torch.tensor([[0, 1, 2, 3]])
    found = ask(model, codes, users_of(1, 1, 0), UnmaskConfig(num_beams=6, order="any"), k=1)
    assert bool(found.exact.all())
    assert model.rows_read == 1 + 4 + 6 + 4
    torch.testing.assert_close(
        found.scores[0].double(), every_way(model, 0.0, codes, UnmaskConfig(order="any")), rtol=1e-5, atol=1e-5
    )


def test_equal_scores_go_to_the_lower_item():
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))[torch.tensor([4, 2, 8, 0, 6, 1, 3, 7, 5])]
    for order in ("any", "confident"):
        found = ask(Masked((3, 3), flat=True), codes, users_of(2, 9, 0), UnmaskConfig(order=order), k=9)
        assert found.items.tolist() == [list(range(9))] * 2


def test_a_users_answer_is_independent_of_the_others_widths():
    codes = torch.randint(6, (150, 4), generator=torch.Generator().manual_seed(1))
    batch, config = users_of(3, 150, 1), UnmaskConfig()
    found = ask(Masked((6,) * 4), codes, batch, config, num_beams=torch.tensor([9, 5, 9]))
    for width, users in ((9, [0, 2]), (5, [1])):
        alone = ask(Masked((6,) * 4), codes, batch, config, num_beams=width)
        assert torch.equal(found.items[users], alone.items[users])
        assert torch.equal(found.bound[users], alone.bound[users])


def test_exact_widens_no_further_than_it_may():
    codes = torch.randint(6, (300, 4), generator=torch.Generator().manual_seed(1))
    model, batch = Masked((6,) * 4), users_of(3, 300, 1)
    found = ask(model, codes, batch, UnmaskConfig(num_beams=5, order="any"), exact=True, max_num_beams=6)
    assert not bool(found.exact.all())
    assert torch.equal(found.items, ask(model, codes, batch, UnmaskConfig(order="any"), num_beams=6).items)


def test_more_levels_than_a_trie_has():
    codes = torch.randint(4, (60, 9), generator=torch.Generator().manual_seed(1))
    found = ask(Masked((4,) * 9), codes, users_of(2, 60, 0), UnmaskConfig(num_beams=20))
    assert bool((found.items >= 0).all())
    assert torch.equal(found.codes.long(), codes[found.items])


def test_items_by_codes_by_hand():
    codes = torch.tensor([[1, 0], [0, 2], [1, 0], [1, 2]])
    found = ItemsByCodes(codes, (2, 3)).of(torch.tensor([[1, 0], [0, 0], [0, 2], [-1, 2], [1, 3]]))
    assert [row.tolist() for row in found.rows()] == [[0, 2], [], [1], [], []]


def test_messages_name_argument_rule_and_value():
    codes = torch.zeros(5, 2, dtype=torch.int64)
    batch = users_of(2, 5, 0)
    with pytest.raises(InvalidValueError, match="order must be 'confident' or 'any', got 'last'"):
        UnmaskConfig(order="last")
    with pytest.raises(InvalidValueError, match="codes_per_step must be at least 1, got 0"):
        UnmaskConfig(codes_per_step=0)
    layout = PlainConfig().build(coded(codes, (2, 2)))
    with pytest.raises(InvalidTypeError, match=r"^unmask: backbone must be MaskedCodes, got object"):
        run(UnmaskConfig().build().begin(Parts(object(), layout=layout), batch, Query(k=1)))
    for options, words in (
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 3, "num_beams": 2}, "num_beams must be at least k = 3, got 2"),
        ({"num_beams": (9, 9)}, r"num_beams must be one number or one per user, got \(9, 9\)"),
        ({"num_beams": torch.tensor([9])}, r"num_beams must be int64 \[2\], got \[1\]"),
        ({"num_beams": torch.tensor([9.0, 9.0])}, r"num_beams must be int64 \[B\], got float32"),
        ({"allowed": torch.ones(5)}, "allowed must be bool, got float32"),
        ({"allowed": torch.ones(4, dtype=torch.bool)}, r"allowed must be \[5\] or \[2, 5\], got \[4\]"),
        ({"exclude": Jagged.from_rows([[1]])}, "exclude must have one row for each of 2 users, got 1"),
    ):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=f"^unmask: {words}"):
            ask(Masked((2, 2)), codes, batch, UnmaskConfig(), **options)
    with pytest.raises(InvalidValueError, match=r"unmask: backbone must predict the catalog's 2 levels .* got 1"):
        run(UnmaskConfig().build().begin(Parts(Masked((2,)), layout=layout), batch, Query(k=1)))
    broken = Masked((2, 2))
    broken.code_logprobs = lambda histories, written: [torch.full((*written.shape[:2], 2), torch.nan)] * 2
    with pytest.raises(InvalidValueError, match="unmask: log-probabilities must be below infinity, got NaN"):
        ask(broken, codes, batch, UnmaskConfig())

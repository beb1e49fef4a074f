from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Query
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, DiverseBeamConfig
from genrec_fast.decoders.base import Parts
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel, brute_force
from shared.searches import searches


def search(model, batch, trie, num_beams, k, *, normalize="all", **options):
    decoder = BeamConfig(normalize=normalize).build()
    return decoder.search(model, batch, trie, k, num_beams=num_beams, **options)


@st.composite
def beam_searches(draw):
    """One of ``searches``, and a number of beams."""
    codes, trie, model, batch, k, filters, keep = draw(searches(most_k=8))
    return codes, trie, model, batch, k, k + draw(st.sampled_from([0, 0, 2, 10, 100])), *filters.values(), keep


@given(beam_searches())
def test_the_certificate_is_never_wrong(case):
    codes, trie, model, batch, k, beams, allowed, exclude, keep = case
    found = search(model, batch, trie, beams, k, allowed=allowed, exclude=exclude)
    scores, items, best = brute_force(model, batch, codes, k, keep=keep)
    for user in range(len(batch)):
        given_items = found.items[user][found.items[user] >= 0]
        assert bool(keep[user, given_items].all())
        assert given_items.unique().numel() == given_items.numel()
        torch.testing.assert_close(found.scores[user, : len(given_items)], scores[user, given_items], rtol=0, atol=0)
        lost = torch.ones(codes.shape[0], dtype=torch.bool)
        lost[given_items] = False
        if bool(found.exact[user]):
            assert found.items[user].tolist() == items[user].tolist()
            assert torch.equal(found.scores[user], best[user])
        elif len(given_items) < k:  # everything that was kept is shown, so the rest was pruned under the bound
            assert bool((scores[user][lost] <= found.bound[user]).all())


@given(beam_searches())
def test_exact_equals_brute_force(case):
    codes, trie, model, batch, k, beams, allowed, exclude, keep = case
    found = search(model, batch, trie, beams, k, allowed=allowed, exclude=exclude, exact=True)
    _, items, best = brute_force(model, batch, codes, k, keep=keep)
    assert bool(found.exact.all())
    assert torch.equal(found.items, items)
    assert torch.equal(found.scores, best)
    present = items >= 0
    assert torch.equal(found.codes[present].long(), codes[items[present]])
    assert bool((found.codes[~present] == -1).all())


def test_exact_widens_only_the_users_who_need_it():
    # Item 9 hides behind a prefix that looks bad to user 0; user 1 (another history) is sure at once.
    class Two(RandomModel):
        def logits(self, state, level):
            if level:
                return super().logits(state, level)
            peaked = torch.tensor([[[9.0, 0.0, 0.0, 0.0]], [[0.1, 0.0, 0.0, 0.0]]])
            return torch.stack([peaked[int(user)] for user in state])

        def prefill(self, batch):
            return dataclasses.replace(super().prefill(batch), state=batch.users[:, None])

    codes = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    model = Two((4, 4), scale=0.5)
    batch = users_of(2, 16, 0)
    batch = type(batch)(batch.items, users=torch.tensor([0, 1]))
    plain = search(model, batch, build_trie(codes), 2, 2)
    assert plain.exact.tolist() == [True, False]
    model.users_read.clear(), model.users_searched.clear()
    found = search(model, batch, build_trie(codes), 2, 2, exact=True)
    assert found.exact.tolist() == [True, True]
    assert model.users_read == [2]  # once, however often it is widened
    assert model.users_searched[0] == 2
    assert set(model.users_searched[1:]) == {1}
    assert torch.equal(found.items[0], plain.items[0])


def test_items_that_share_an_id_share_its_score_in_order_of_id():
    trie = build_trie(torch.tensor([[1, 1], [0, 0], [1, 1], [1, 1]]), codebook_sizes=(2, 2))
    model = RandomModel((2, 2), scale=0.0)
    found = search(model, users_of(1, 4, 0), trie, 4, 4)
    assert found.items.tolist() == [[0, 1, 2, 3]]  # flat logits: all tie, the lower id first
    assert found.codes[0].tolist() == [[1, 1], [0, 0], [1, 1], [1, 1]]
    kept = search(model, users_of(1, 4, 0), trie, 4, 4, exclude=Jagged.from_rows([[0, 3]]))
    assert kept.items.tolist() == [[1, 2, -1, -1]]
    assert kept.scores[0, 2:].tolist() == [-torch.inf, -torch.inf]


def test_a_tie_with_a_pruned_prefix_is_not_a_proof():
    trie = build_trie(torch.arange(6).view(-1, 1), codebook_sizes=(6,))
    found = search(RandomModel((6,), scale=0.0), users_of(1, 6, 0), trie, 3, 3)
    assert found.exact.tolist() == [False]
    assert found.bound[0] == found.scores[0, 2]


def test_a_filter_that_leaves_nothing_is_an_exact_empty_answer():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    nothing = torch.zeros(2, dtype=torch.bool)
    found = search(RandomModel((2, 2)), users_of(2, 2, 0), trie, 5, 2, allowed=nothing)
    assert found.items.tolist() == [[-1, -1], [-1, -1]]
    assert found.exact.tolist() == [True, True]


def test_normalize_valid_renormalises_over_the_children():
    trie = build_trie(torch.tensor([[0], [2]]), codebook_sizes=(4,))
    found = search(RandomModel((4,)), users_of(3, 2, 0), trie, 2, 2, normalize="valid")
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(3))
    assert bool((search(RandomModel((4,)), users_of(3, 2, 0), trie, 2, 2).scores.exp().sum(1) < 1).all())


def test_messages_name_argument_rule_and_value():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    model, batch = RandomModel((2, 2)), users_of(2, 2, 0)
    with pytest.raises(InvalidValueError, match=r"beam: num_beams must be at least k = 3, got 2"):
        search(model, batch, trie, 2, 3)
    with pytest.raises(InvalidValueError, match=r"beam: k must be at least 1, got 0"):
        search(model, batch, trie, 2, 0)
    with pytest.raises(InvalidTypeError, match=r"beam: backbone must be Autoregressive, got int"):
        search(3, batch, trie, 2, 1)
    with pytest.raises(InvalidValueError, match=r"beam: backbone must have the trie's codebook sizes \(2, 2\), got"):
        search(RandomModel((2, 3)), batch, trie, 2, 1)
    with pytest.raises(InvalidValueError, match=r"beam: allowed must be \[2\] or \[2, 2\], got \[3\]"):
        search(model, batch, trie, 2, 1, allowed=torch.ones(3, dtype=torch.bool))
    with pytest.raises(InvalidValueError, match=r"beam: exclude must have one row for each of 2 users, got 1"):
        search(model, batch, trie, 2, 1, exclude=Jagged.from_rows([[0]]))
    with pytest.raises(InvalidValueError, match=r"BeamConfig: num_beams must be at least 1, got 0"):
        BeamConfig(num_beams=0)
    with pytest.raises(InvalidValueError, match=r"BeamConfig: normalize must be 'all' or 'valid', got 'some'"):
        BeamConfig(normalize="some")


class TestSuite(DecoderSuite):
    decoder = BeamConfig(num_beams=8).build()


@given(beam_searches(), st.integers(0, 1000))
def test_every_user_may_have_a_width_of_his_own(case, seed):
    """Each gets what a search of that width gives, bit for bit."""
    _, trie, model, batch, k, beams, allowed, exclude, _ = case
    generator = torch.Generator().manual_seed(seed)
    widths = k + torch.randint(0, beams - k + 4, (len(batch),), generator=generator)
    for exact in (False, True):
        together = search(model, batch, trie, widths, k, allowed=allowed, exclude=exclude, exact=exact)
        for user in range(len(batch)):
            one = torch.tensor([user])
            mine = {"allowed": allowed if allowed is None or allowed.dim() == 1 else allowed[one]}
            mine["exclude"] = None if exclude is None else exclude.select(one)
            alone = search(model, batch.select(one), trie, int(widths[user]), k, exact=exact, **mine)
            for name in ("items", "codes", "scores", "exact", "bound"):
                assert torch.equal(getattr(together, name)[one], getattr(alone, name)), name


@given(beam_searches(), st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_levels_may_have_widths_of_their_own(case, widths):
    """Its certificate is never wrong either, and equal numbers are one number."""
    codes, trie, model, batch, k, beams, allowed, exclude, keep = case
    levels = codes.shape[1]
    same = search(model, batch, trie, (beams,) * levels, k, allowed=allowed, exclude=exclude)
    one = search(model, batch, trie, beams, k, allowed=allowed, exclude=exclude)
    assert torch.equal(same.items, one.items) and torch.equal(same.bound, one.bound)
    widths = (*widths[: levels - 1], k + widths[-1])
    found = search(model, batch, trie, widths, k, allowed=allowed, exclude=exclude)
    sure = search(model, batch, trie, widths, k, allowed=allowed, exclude=exclude, exact=True)
    _, items, best = brute_force(model, batch, codes, k, keep=keep)
    assert torch.equal(found.items[found.exact], items[found.exact])
    assert torch.equal(sure.items, items) and torch.equal(sure.scores, best)


def test_widths_that_do_not_fit_are_named():
    trie, model, batch = build_trie(torch.tensor([[0, 1], [1, 0]])), RandomModel((2, 2)), users_of(2, 2, 0)
    with pytest.raises(InvalidValueError, match="beam: num_beams must have 2 numbers, got 3"):
        search(model, batch, trie, (2, 2, 2), 1)
    with pytest.raises(InvalidValueError, match="beam: num_beams must be at least k = 2, got 1"):
        search(model, batch, trie, (2, 1), 2)
    with pytest.raises(InvalidValueError, match="beam: num_beams must be at least k = 2, got 1"):
        search(model, batch, trie, torch.tensor([2, 1]), 2)
    with pytest.raises(InvalidValueError, match="beam: num_beams must have 2 numbers, got 0"):
        search(model, batch, trie, [], 1)
    with pytest.raises(InvalidTypeError, match=r"beam: num_beams must be int64 \[B\], got float32"):
        search(model, batch, trie, torch.tensor([2.0, 2.0]), 1)
    with pytest.raises(InvalidValueError, match=r"beam: num_beams must be int64 \[2\], got \[3\]"):
        search(model, batch, trie, torch.tensor([2, 2, 2]), 1)
    with pytest.raises(InvalidTypeError, match=r"diverse_beam: num_beams must be an int, got \(5, 5\)"):
        DiverseBeamConfig().build().search(model, batch, trie, 1, num_beams=(5, 5))


def test_a_pass_says_who_is_finished():
    codes = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    model, batch = RandomModel((4, 4), 1, scale=1.5), users_of(6, 16, 0)
    whole = search(model, batch, build_trie(codes), 3, 3, exact=True)
    first = search(model, batch, build_trie(codes), 3, 3)
    assert 0 < int(first.exact.sum()) < 6
    running = BeamConfig().build().begin(Parts(model, build_trie(codes)), batch, Query(k=3, num_beams=3, exact=True))
    assert not running.done and not bool(running.finished.any())
    running.advance(), running.advance()
    assert torch.equal(running.finished, first.exact) and not running.done
    assert torch.equal(running.results().items[first.exact], whole.items[first.exact])
    while not running.done:
        running.advance()
    assert bool(running.finished.all()) and torch.equal(running.results().items, whole.items)

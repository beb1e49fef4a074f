"""What AtSpeed's relaxed verification draws, against what the target alone would draw."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import SpeculativeSamplingConfig
from genrec_fast.decoders.drafted_search import Ahead
from genrec_fast.decoders.sampled_beams import SampledBeams
from genrec_fast.decoders.sampled_search import SampledSearch
from genrec_fast.decoders.trie_search import TrieSearch
from genrec_fast.nn.engine.plan import Plan
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel

SIZES = (3, 3, 3)
CODES = torch.tensor([[0, 0, 1], [0, 0, 2], [0, 2, 0], [1, 1, 1], [2, 0, 0], [2, 1, 2], [2, 1, 0]])
TRIE = build_trie(CODES, codebook_sizes=SIZES)
DRAWS = 10_000


class Drafted:
    """A backbone, as a system that drafts."""

    def __init__(self, backbone):
        self.backbone = backbone

    def batch(self, question):
        return question


def model(seed, sizes=SIZES, **options):
    return RandomModel(sizes, seed, tree=True, scale=3.0, **options)


def behind(backbone, users=DRAWS):
    """The same history for everybody: many users are many draws."""
    return backbone.prefill(Batch(Jagged.from_rows([[4, 2]]))).select(torch.zeros(users, dtype=torch.int64))


class Wrong(RandomModel):
    """The target's logits upside down."""

    def logits(self, state, level):
        return -super().logits(state, level)


DRAFTS = {"same": model(1), "random": model(5), "wrong": Wrong(SIZES, 1, tree=True, scale=3.0)}


def plan(width, normalize="all"):
    return Plan((width,) * 3, normalize)


def drafted(draft, width, *, normalize="all", seeds=0, users=DRAWS, **settings):
    ahead = Ahead(behind(model(1), users), behind(draft, users), **settings)
    rule = SampledBeams(torch.arange(users) + seeds)
    return SampledSearch(ahead, TRIE, plan(width, normalize), users, rule).run()


def alone(width, seeds):
    return (
        TrieSearch(behind(model(1)), TRIE, plan(width), DRAWS, SampledBeams(torch.arange(DRAWS) + seeds))
        .run()
        .found()
        .rows
    )


def likely():
    """Of each row, by enumeration: the softmax over the children of a prefix, level by level."""
    out = torch.ones(len(CODES), dtype=torch.float64)
    session = behind(model(1), 1)
    for row, codes in enumerate(CODES.unique(dim=0).tolist()):
        now = session
        for level, code in enumerate(codes):
            children = TRIE.valid_codes(level, _node(codes[:level]))
            logits = now.scores()[0][0, -1].double().masked_fill(~children[0], -torch.inf)
            out[row] *= logits.softmax(0)[code]
            now = now.extend(torch.tensor([[code]]), torch.zeros(1, 1, dtype=torch.int64))
    return out


def _node(prefix):
    return TRIE.lookup(torch.tensor([prefix])).long() if prefix else torch.tensor([0])


def chi_square(counts, expected):
    return float(((counts - expected).square() / expected).sum())


@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("num_levels", [None, 1])
@pytest.mark.parametrize("draft", ["same", "random", "wrong"])
def test_one_beam_and_one_draft_follow_the_target(draft, num_levels, normalize):
    """Speculative sampling: whatever was drafted, every code is a draw from the target's distribution."""
    found = drafted(DRAFTS[draft], 1, normalize=normalize, drafts_per_beam=1, num_levels=num_levels)
    counts = torch.bincount(found.found().rows[:, 0], minlength=len(CODES)).double()
    assert chi_square(counts, DRAWS * likely()) < 27.9  # 6 degrees of freedom: one in ten thousand
    assert draft != "same" or bool((found.accepted == 1).all())


def test_a_wrong_draft_is_often_refused():
    """Or the test above would show nothing."""
    share = drafted(DRAFTS["wrong"], 1, drafts_per_beam=1).accepted.double().mean()
    assert 0.1 < float(share) < 0.9


class Alike(RandomModel):
    """Says the same to everybody, whatever his history: histories are draws."""

    def prefill(self, batch):
        one = super().prefill(Batch(Jagged.from_rows([[4, 2]])))
        return one.select(torch.zeros(len(batch), dtype=torch.int64))


UNEVEN = (4, 5, 2, 6)


def uneven(seed):
    """40 items, most of them below few prefixes, some with one semantic ID: their nodes have from one child to all."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(UNEVEN)
    codes = (torch.rand(40, 4, generator=generator) ** 3 * sizes).long()
    return torch.cat([codes, codes[:3]])


def chances(target, codes):
    """Of each semantic ID: drawn level by level among what leads to one, and by the softmax of whole scores."""
    unique = codes.unique(dim=0)
    by_level, whole = (torch.zeros(len(unique), dtype=torch.float64) for _ in range(2))
    for number, row in enumerate(unique.tolist()):
        now = target.prefill(Batch(Jagged.from_rows([[]])))
        for level, code in enumerate(row):
            logits = now.scores()[0][0, -1, : UNEVEN[level]].double()
            follow = unique[(unique[:, :level] == torch.tensor(row[:level])).all(1), level]
            leads = torch.full_like(logits, -torch.inf).index_fill(0, follow, 0.0)
            by_level[number] += (logits + leads).log_softmax(0)[code]
            whole[number] += logits.log_softmax(0)[code]
            now = now.extend(torch.tensor([[code]]), torch.zeros(1, 1, dtype=torch.int64))
    return unique, by_level.exp(), whole.softmax(0)


def beyond(counts, likely):
    """How many standard deviations the chi-square statistic lies above its mean; rare ones count as one."""
    expected = likely * counts.sum()
    rare = expected < 10
    counts, expected = (torch.cat([part[~rare], part[rare].sum()[None]]) for part in (counts, expected))
    freedom = len(counts) - 1
    return (chi_square(counts, expected.clamp(min=1e-9)) - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("draft", ["random", "wrong", "blind"])
def test_one_beam_and_one_draft_draw_level_by_level_where_the_tree_is_not_full(draft, normalize, filtered):
    """By the whole decoder: a level is shared among the codes that lead to an item, so items do not follow scores."""
    target = Alike(UNEVEN, 1, tree=True, scale=3.0)
    drafts = {
        "random": Alike(UNEVEN, 5, tree=True, scale=3.0),
        "wrong": Wrong(UNEVEN, 1, tree=True, scale=3.0),
        "blind": RandomModel(UNEVEN, 7, tree=True, scale=3.0, forbidden=0.5),
    }
    codes = uneven(0)
    allowed = torch.rand(len(codes), generator=torch.Generator().manual_seed(3)) < (0.6 if filtered else 2.0)
    unique, by_level, whole = chances(target, codes[allowed])
    config = SpeculativeSamplingConfig(num_beams=1, drafts_per_beam=1, normalize=normalize)
    users = torch.arange(DRAWS)
    everybody = Batch(Jagged(users, torch.arange(DRAWS + 1)))
    trie = build_trie(codes, codebook_sizes=UNEVEN)
    found = config.build().drafted_by(Drafted(drafts[draft])).search(target, everybody, trie, 1, allowed=allowed)
    drawn = (found.codes[:, 0, None].long() == unique).all(2)
    assert bool((drawn.sum(1) == 1).all())
    named = (codes[:, None] == unique).all(2) & allowed[:, None]
    assert torch.equal(found.items[:, 0], named.byte().argmax(0)[drawn.byte().argmax(1)])  # of equal IDs, the first
    counts = drawn.sum(0).double()
    assert beyond(counts, by_level) < 5
    assert beyond(counts, whole) > 50


@pytest.mark.parametrize("width", [2, 3])
def test_a_draft_that_is_the_target_draws_its_own_sampled_beams(width):
    """Sets of beams, as often as without a draft, and in one pass."""
    search = drafted(model(1), width, drafts_per_beam=1)
    found, wanted = search.found().rows, alone(width, seeds=1 << 40)
    assert search.passes == 1
    sets = [rows.sort(1).values @ (len(CODES) ** torch.arange(width).int()) for rows in (found, wanted)]
    names, counts = torch.cat(sets).unique(return_inverse=True)
    one, other = (torch.bincount(part, minlength=len(names)).double() for part in counts.split(DRAWS))
    large = one + other > 20
    statistic = float(((one - other).square() / (one + other))[large].sum())
    freedom = int(large.sum()) - 1
    assert freedom > 5
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@st.composite
def searches(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    items = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    forbidden = draw(st.sampled_from([0.0, 0.0, 0.3]))
    target, draft = (model(draw(st.integers(0, 99)), sizes, forbidden=forbidden) for _ in range(2))
    users, k = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    config = SpeculativeSamplingConfig(
        num_beams=k + draw(st.integers(0, 4)),
        normalize=draw(st.sampled_from(["all", "valid"])),
        drafts_per_beam=draw(st.integers(1, 3)),
        num_levels=draw(st.sampled_from([None, 1, 2])),
        seed=draw(st.integers(-9, 9)),
    )
    asked = {}
    if draw(st.booleans()):
        asked["allowed"] = torch.rand(users, items, generator=generator) < 0.5
    decoder = config.build().drafted_by(Drafted(draft))
    return build_trie(codes, codebook_sizes=sizes), target, decoder, users_of(users, items, k), k, asked


@settings(max_examples=40)
@given(searches())
def test_users_get_their_own_draws_alone_and_together(case):
    trie, target, decoder, batch, k, asked = case
    found = decoder.search(target, batch, trie, k, **asked)
    again = decoder.search(target, batch, trie, k, **asked)
    for name in ("items", "codes", "scores"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    for user, row in enumerate(batch.items.rows()):
        own = {name: mask[user : user + 1] for name, mask in asked.items()}
        single = decoder.search(target, Batch(Jagged.from_rows([row])), trie, k, **own)
        assert torch.equal(single.items[0], found.items[user])
        assert torch.equal(single.scores[0], found.scores[user])


@settings(max_examples=40)
@given(searches())
def test_items_are_different_allowed_and_scored_by_the_target(case):
    trie, target, decoder, batch, k, asked = case
    found = decoder.search(target, batch, trie, k, **asked)
    plain = copy.copy(target)
    plain.tree = False  # its sessions go level by level
    beam = gf.BeamConfig(num_beams=50, normalize=decoder.config.normalize).build()
    every = beam.search(plain, batch, trie, 40, **asked)
    assert not bool(found.exact.any())
    for user in range(len(batch)):
        items = found.items[user][found.items[user] >= 0]
        assert len(items.unique()) == len(items)
        if "allowed" in asked:
            assert bool(asked["allowed"][user, items].all())
        known = dict(zip(every.items[user].tolist(), every.scores[user].tolist(), strict=True))
        wanted = torch.tensor([known[item] for item in items.tolist()])
        torch.testing.assert_close(found.scores[user][: len(items)], wanted, rtol=0, atol=1e-5)


def test_a_seed_is_another_draw():
    batch, trie = users_of(40, 7, 0), TRIE
    decoder = SpeculativeSamplingConfig(num_beams=3).build().drafted_by(Drafted(model(5)))
    found = [decoder.search(model(1), batch, trie, 3, seed=seed).items for seed in (None, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_a_recipe_with_it_is_saved_and_loaded(tmp_path):
    small = {"num_heads": 1, "num_layers": 1, "num_depth_layers": 1}
    decoder = SpeculativeSamplingConfig(num_beams=4, seed=7, draft=gf.TimelineConfig(width=8, **small))
    backbone = gf.TimelineConfig(width=16, **small)
    torch.manual_seed(0)
    catalog = gf.Catalog(item_codes=torch.randint(0, 5, (40, 4)), codebook_sizes=(5,) * 4, features=torch.randn(40, 4))
    made = gf.Recommender(dataclasses.replace(gf.recipes.marius(), backbone=backbone, decoder=decoder), catalog)
    made.save(tmp_path)
    again = gf.load(tmp_path)
    assert again.decoder.config == decoder
    histories = [[0, 3, 8], [5], [39]]
    assert torch.equal(again.recommend(histories, 3).items, made.recommend(histories, 3).items)


def test_messages_name_argument_rule_and_value():
    with pytest.raises(InvalidValueError, match=r"SpeculativeSamplingConfig: seed must fit 64 bits, got 92233720368"):
        SpeculativeSamplingConfig(seed=1 << 63)
    with pytest.raises(InvalidTypeError, match=r"SpeculativeSamplingConfig: draft must be a backbone's config, got 3"):
        SpeculativeSamplingConfig(draft=3)
    with pytest.raises(InvalidTypeError, match=r"draft must be a backbone's config, got type"):
        SpeculativeSamplingConfig(draft=gf.TimelineConfig)
    with pytest.raises(InvalidTypeError, match=r"draft must be a backbone's config, got .*BeamConfig"):
        SpeculativeSamplingConfig(draft=gf.BeamConfig()).build().parts(None)
    decoder = SpeculativeSamplingConfig().build()
    with pytest.raises(InvalidValueError, match=r"speculative_sampling: exact must be False: its items are drawn"):
        decoder.search(model(1), users_of(2, 7, 0), TRIE, 1, exact=True)
    with pytest.raises(InvalidTypeError, match=r"speculative_sampling: draft must be given"):
        decoder.search(model(1), users_of(2, 7, 0), TRIE, 1)


class TestSuite(DecoderSuite):
    decoder = SpeculativeSamplingConfig(num_beams=8).build().drafted_by(Drafted(RandomModel((8, 8, 8), 4)))

    def backbone(self):
        return RandomModel((8, 8, 8), 3, tree=True)

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, SpeculativeConfig
from genrec_fast.decoders.drafted_search import Ahead, DraftedSearch
from genrec_fast.nn.engine.plan import Plan
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel

NAMES = ("items", "codes", "scores", "exact", "bound")


class Drafted:
    """A backbone, as a system that drafts: it reads what it is given."""

    def __init__(self, backbone):
        self.backbone = backbone

    def batch(self, question):
        return question


class Wrong(RandomModel):
    """The target's logits upside down: what it likes least is drafted first."""

    def logits(self, state, level):
        likes = super().logits(state, level)
        return (-likes).where(likes > -torch.inf, likes)


def model(sizes, seed, *, kind=RandomModel, tree=True, **options):
    return kind(sizes, seed, tree=tree, **options)


def search(target, draft, batch, trie, k, *, settings, **options):
    decoder = SpeculativeConfig(**settings).build().drafted_by(Drafted(draft))
    return decoder.search(target, batch, trie, k, **options)


def rounds(target, draft, batch, trie, plan, **settings):
    """A whole search, for what it counted."""
    ahead = Ahead(target.prefill(batch), draft.prefill(batch), **settings)
    return DraftedSearch(ahead, trie, plan, len(batch)).run()


@st.composite
def searches(draw):
    """A catalog with shared semantic IDs, a target, a draft, users, and what is asked of them."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    items = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    seed = draw(st.integers(0, 1000))
    look = {
        "scale": draw(st.sampled_from([0.0, 0.5, 4.0, 40.0])),
        "steps": draw(st.sampled_from([2, 4, 1 << 20])),  # few steps: many ties
        "forbidden": draw(st.sampled_from([0.0, 0.0, 0.3])),
    }
    target = model(sizes, seed, **look)
    draft = {
        "same": lambda: model(sizes, seed, tree=False, **look),
        "wrong": lambda: model(sizes, seed, kind=Wrong, **look),
        "random": lambda: model(sizes, draw(st.integers(1001, 2000)), tree=draw(st.booleans())),
    }[draw(st.sampled_from(["same", "wrong", "random"]))]()
    users = draw(st.integers(1, 5))
    k = draw(st.integers(1, 12))
    width = st.integers(k, k + 12)
    asked = {
        "num_beams": draw(
            st.one_of(
                width,
                st.tuples(*[st.integers(1, 24)] * (len(sizes) - 1), width),
                st.lists(width, min_size=users, max_size=users).map(torch.tensor),
            )
        ),
        "exact": draw(st.booleans()),
    }
    if draw(st.booleans()):
        density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.9]))
        shape = draw(st.sampled_from([(items,), (users, items)]))
        asked["allowed"] = torch.rand(shape, generator=generator) < density
    if draw(st.booleans()):
        counts = torch.randint(items, (users,), generator=generator).tolist()
        asked["exclude"] = Jagged.from_rows([torch.randint(items, (n,), generator=generator) for n in counts])
    settings = {
        "normalize": draw(st.sampled_from(["all", "valid"])),
        "drafts_per_beam": draw(st.integers(1, 4)),
        "num_levels": draw(st.sampled_from([None, 1, 2])),
    }
    batch = users_of(users, items, draw(st.integers(0, 1000)))
    return build_trie(codes, codebook_sizes=sizes), target, draft, batch, k, asked, settings


@given(searches())
def test_any_draft_gives_the_bits_of_the_targets_own_beam_search(case):
    trie, target, draft, batch, k, asked, settings = case
    found = search(target, draft, batch, trie, k, settings=settings, **asked)
    plain = copy.copy(target)
    plain.tree = False  # its sessions go level by level
    wanted = BeamConfig(normalize=settings["normalize"]).build().search(plain, batch, trie, k, **asked)
    for name in NAMES:
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@given(searches())
def test_no_row_is_read_twice_and_a_level_is_gained_by_every_pass(case):
    trie, target, draft, batch, k, asked, settings = case
    num_beams = asked["num_beams"] if isinstance(asked["num_beams"], int) else k
    levels = len(trie.codebook_sizes)
    found = rounds(target, draft, batch, trie, Plan((num_beams,) * levels, settings["normalize"]))
    some = found.found().rows[:, 0] >= 0  # where the network forbids all there is, nothing is left to be read
    assert bool((found.rounds + found.accepted == levels - 1)[some].all())
    assert found.passes == int(found.rounds.max())


@given(searches())
def test_a_draft_that_is_the_target_is_accepted_whole(case):
    trie, target, _, batch, k, _, settings = case
    levels = len(trie.codebook_sizes)
    plan = Plan((k,) * levels, settings["normalize"])
    found = rounds(target, target, batch, trie, plan, drafts_per_beam=settings["drafts_per_beam"])
    some = found.found().rows[:, 0] >= 0
    assert found.passes <= 1
    assert bool((found.accepted == max(0, levels - 2))[some].all())


def test_rows_that_were_read_are_known():
    """A draft of all prefixes: one pass reads each once; a narrow wrong one: the beams of every level, and drafts."""
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)
    trie, batch = build_trie(codes, codebook_sizes=(4, 4, 4)), users_of(3, 64, 0)
    target, wrong = model((4, 4, 4), 1), model((4, 4, 4), 1, kind=Wrong)
    everything = rounds(target, wrong, batch, trie, Plan((2, 2, 2)), drafts_per_beam=8)
    assert (everything.passes, everything.read.tolist()) == (1, [2 + 8] * 3)  # 8: all below two beams
    nothing = rounds(target, wrong, batch, trie, Plan((2, 2, 2)), drafts_per_beam=1)
    assert (nothing.passes, nothing.accepted.tolist()) == (2, [0] * 3)
    assert nothing.read.tolist() == [2 + 2 + 2] * 3


def test_users_go_on_by_themselves():
    """One user's draft is right at every level, the other's never: they need one pass and three."""
    codes = torch.cartesian_prod(*[torch.arange(3)] * 4)
    trie, batch = build_trie(codes, codebook_sizes=(3,) * 4), users_of(2, 81, 4)
    target = model((3,) * 4, 5)

    class Half(RandomModel):
        def prefill(self, batch):
            self.signs = torch.tensor([1.0, -1.0]).view(2, 1, 1)
            return super().prefill(batch)

        def logits(self, state, level):
            signs = self.signs if len(state) == 2 else self.signs[1:]
            return super().logits(state, level) * signs

    found = rounds(target, Half((3,) * 4, 5, tree=True), batch, trie, Plan((1,) * 4), drafts_per_beam=1)
    assert (found.passes, found.rounds.tolist(), found.accepted.tolist()) == (3, [1, 3], [2, 0])
    assert target.users_searched == [1]  # who is at the end leaves


def recommender(name, decoder, *, seed=0, width=16):
    """Untrained, but not flat: some prefixes are far better than others."""
    recipe = gf.recipes.get(name)
    backbone = {
        "marius": gf.TimelineConfig(width=width, num_heads=2, hidden=32, depth_hidden=32, num_layers=1),
        "tiger": gf.T5Config(width=width, num_layers=2, num_heads=2, head_width=8, hidden=32),
        "gru4rec": gf.GRUConfig(),
    }[name]
    torch.manual_seed(0)
    codes = torch.randint(0, 6, (90, 4))
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(6, 6, 6, 6), features=torch.randn(90, 4))
    torch.manual_seed(seed)
    made = gf.Recommender(dataclasses.replace(recipe, backbone=backbone, decoder=decoder), catalog)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.0)
    return made


HISTORIES = [[0, 3, 8], [5], [89, 88, 87, 1], [40, 41], [7, 7, 7]]


@pytest.mark.parametrize("normalize", ["all", "valid"])
@pytest.mark.parametrize("name", ["marius", "tiger"])
@pytest.mark.parametrize("other", ["marius", "tiger"])
@pytest.mark.parametrize("engine", ["native", "modules"])
@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
def test_networks_answer_as_their_own_beam_search(name, other, normalize, engine, monkeypatch):
    """Drafted by a system of another kind, with a layout of its own."""
    if engine == "modules":
        for module in ("timeline", "t5"):
            monkeypatch.setattr(f"genrec_fast.backbones.{module}.native_{module}", lambda *_: None)
    plain = recommender(name, BeamConfig(num_beams=6, normalize=normalize))
    draft = recommender(other, BeamConfig(), seed=1, width=8).eval()
    model = recommender(name, SpeculativeConfig(num_beams=6, normalize=normalize))
    model.decoder = model.decoder.drafted_by(draft)
    for options in (
        {},
        {"exclude_seen": True},
        {"allowed": list(range(0, 90, 7))},
        {"exact": True},
        {"num_beams": torch.tensor([6, 9, 20, 5, 8])},
        {"num_beams": [4, 12, 6, 9]},
    ):
        found, wanted = (some.recommend(HISTORIES, 5, **options) for some in (model, plain))
        if engine == "native":  # the same bits for a row of a tree as level by level
            for part in NAMES:
                assert torch.equal(getattr(found, part), getattr(wanted, part)), part
        else:
            assert torch.equal(found.items, wanted.items)
            torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-5)
            torch.testing.assert_close(found.bound, wanted.bound, rtol=0, atol=1e-5)


def test_a_draft_of_the_recipe_is_saved_and_loaded(tmp_path):
    draft = gf.TimelineConfig(width=8, num_heads=1, num_layers=1)
    model = recommender("marius", SpeculativeConfig(num_beams=6, draft=draft))
    assert type(model.draft).__name__ == "Timeline"
    model.save(tmp_path)
    again = gf.load(tmp_path)
    assert again.decoder.config == SpeculativeConfig(num_beams=6, draft=draft)
    plain = recommender("marius", BeamConfig(num_beams=6))
    plain.backbone.load_state_dict(model.backbone.state_dict())
    for name in NAMES:
        assert torch.equal(getattr(again.recommend(HISTORIES, 5), name), getattr(plain.recommend(HISTORIES, 5), name))


def test_concurrent_questions_get_their_own_answers():
    draft = gf.TimelineConfig(width=8, num_heads=1, num_layers=1)
    model = recommender("marius", SpeculativeConfig(num_beams=6, draft=draft))
    with model.batcher() as batcher:
        found = [batcher.submit([history], k=5) for history in HISTORIES]
        found = torch.cat([future.result().items for future in found])
    assert torch.equal(found, model.recommend(HISTORIES, 5).items)


def test_messages_name_argument_rule_and_value():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    target, batch = model((2, 2), 0), users_of(2, 2, 0)
    with pytest.raises(InvalidTypeError, match=r"speculative: draft must be given .*, got None"):
        SpeculativeConfig().build().search(target, batch, trie, 1)
    with pytest.raises(InvalidTypeError, match=r"speculative: draft: backbone must be Autoregressive, got int"):
        search(target, 3, batch, trie, 1, settings={})
    with pytest.raises(InvalidValueError, match=r"draft: backbone must have the trie's codebook sizes \(2, 2\), got"):
        search(target, model((2, 3), 0), batch, trie, 1, settings={})
    with pytest.raises(UnsupportedError, match=r"speculative: .* must be a TreeSession .*, got RandomSession"):
        search(model((2, 2), 0, tree=False), target, batch, trie, 1, settings={})
    with pytest.raises(InvalidValueError, match=r"SpeculativeConfig: drafts_per_beam must be at least 1, got 0"):
        SpeculativeConfig(drafts_per_beam=0)
    with pytest.raises(InvalidTypeError, match=r"SpeculativeConfig: draft must be a backbone's config, got 3"):
        SpeculativeConfig(draft=3)
    with pytest.raises(InvalidTypeError, match=r"draft must be a backbone's config, got type"):
        SpeculativeConfig(draft=gf.TimelineConfig)
    with pytest.raises(InvalidTypeError, match=r"draft must be a backbone's config, got .*BeamConfig"):
        SpeculativeConfig(draft=BeamConfig()).build().parts(None)


def test_what_it_cannot_write_is_refused():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    target = model((2, 2), 0)
    target.plan = Plan((1, 1), end_token=3)
    with pytest.raises(UnsupportedError, match=r"plan must be one item without end token .* end_token=3"):
        search(target, model((2, 2), 1), users_of(2, 2, 0), trie, 1, settings={})


class TestSuite(DecoderSuite):
    decoder = SpeculativeConfig().build().drafted_by(Drafted(RandomModel((8, 8, 8), 4)))

    def backbone(self):
        return RandomModel((8, 8, 8), 3, tree=True)

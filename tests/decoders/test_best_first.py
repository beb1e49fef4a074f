from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import BeamConfig, BestFirstConfig
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel, brute_force


@st.composite
def searches(draw, forbidden=True):
    """A catalog with shared semantic IDs, a model, users, k, and a filter over items or none."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    items = draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    codes = torch.stack([torch.randint(size, (items,), generator=generator) for size in sizes], 1)
    model = RandomModel(
        sizes,
        draw(st.integers(0, 1000)),
        scale=draw(st.sampled_from([0.0, 0.5, 4.0, 40.0])),
        steps=draw(st.sampled_from([2, 4, 1 << 20])),
        forbidden=draw(st.sampled_from([0.0, 0.0, 0.3])) if forbidden else 0.0,
        tree=True,
    )
    users = draw(st.integers(1, 5))
    batch = users_of(users, items, draw(st.integers(0, 1000)))
    k = draw(st.integers(1, 70))
    allowed = exclude = None
    keep = torch.ones(users, items, dtype=torch.bool)
    kind = draw(st.sampled_from(["none", "none", "one", "each"]))
    if kind != "none":
        density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.9]))
        shape = (items,) if kind == "one" else (users, items)
        allowed = torch.rand(shape, generator=generator) < density
        keep &= allowed
    if draw(st.booleans()):
        rows = [torch.randint(items, (n,), generator=generator) for n in torch.randint(items, (users,)).tolist()]
        exclude = Jagged.from_rows(rows)
        for user, row in enumerate(rows):
            keep[user, row] = False
    return codes, build_trie(codes, codebook_sizes=sizes), model, batch, k, {"allowed": allowed, "exclude": exclude}, keep


def search(model, batch, trie, k, *, normalize="all", **options):
    return BestFirstConfig(normalize=normalize).build().search(model, batch, trie, k, **options)


def plain(model):
    """The same model, whose sessions go level by level."""
    return RandomModel(
        model.codebook_sizes, model.seed, scale=model.scale, steps=model.steps, forbidden=model.forbidden
    )


def beam(model, batch, trie, k, *, normalize="all", **options):
    return BeamConfig(normalize=normalize).build().search(plain(model), batch, trie, k, **options)


def assert_same_answers(found, wanted):
    for name in ("items", "codes", "scores", "exact"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@given(searches())
def test_it_equals_brute_force(case):
    codes, trie, model, batch, k, filters, keep = case
    found = search(model, batch, trie, k, exact=True, **filters)
    _, items, best = brute_force(plain(model), batch, codes, k, keep=keep)
    assert bool(found.exact.all())
    assert torch.equal(found.items, items)
    assert torch.equal(found.scores, best)


@given(searches(), st.sampled_from(["all", "valid"]))
def test_it_equals_a_beam_search_that_widens(case, normalize):
    _, trie, model, batch, k, filters, _ = case
    found = search(model, batch, trie, k, normalize=normalize, exact=True, **filters)
    assert_same_answers(found, beam(model, batch, trie, k, normalize=normalize, exact=True, **filters))
    # Of what is left, nothing is as good as the last item.
    assert bool(((found.bound < found.scores[:, -1]) | (found.bound == -torch.inf)).all())


@given(searches(), st.integers(1, 12), st.sampled_from(["all", "valid"]))
def test_a_budget_leaves_an_honest_bound(case, num_beams, normalize):
    codes, trie, model, batch, k, filters, keep = case
    found = search(model, batch, trie, k, normalize=normalize, num_beams=num_beams, **filters)
    wanted = search(model, batch, trie, k, normalize=normalize, exact=True, **filters)
    for user in range(len(batch)):
        shown = found.items[user][found.items[user] >= 0]
        assert bool(keep[user, shown].all())
        assert shown.unique().numel() == shown.numel()
        # As many as there are, whatever the budget.
        assert shown.numel() == int((wanted.items[user] >= 0).sum())
        every = dict(zip(wanted.items[user].tolist(), wanted.scores[user].tolist(), strict=True))
        for item, score in zip(shown.tolist(), found.scores[user].tolist(), strict=False):
            assert every.get(item, score) == score
        lost = wanted.scores[user][~torch.isin(wanted.items[user], shown)]
        assert bool((lost <= found.bound[user]).all())
        if bool(found.exact[user]):
            assert torch.equal(found.items[user], wanted.items[user])


@given(searches(), st.sampled_from([None, 1, 3]))
def test_nobody_depends_on_who_else_is_asked_for(case, num_beams):
    _, trie, model, batch, k, filters, _ = case
    together = search(model, batch, trie, k, num_beams=num_beams, **filters)
    allowed, exclude = filters["allowed"], filters["exclude"]
    for user in range(len(batch)):
        own = {
            "allowed": allowed if allowed is None or allowed.dim() == 1 else allowed[user : user + 1],
            "exclude": None if exclude is None else exclude.slice(user, user + 1),
        }
        alone = search(model, batch.slice(user, user + 1), trie, k, num_beams=num_beams, **own)
        for name in ("items", "codes", "scores", "exact", "bound"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[user]), name


def recommender(recipe, items=60, seed=0):
    """Untrained, but not flat: some prefixes are far better than others."""
    torch.manual_seed(seed)
    codes = torch.randint(0, 6, (items, 3))
    catalog = gf.Catalog(item_codes=codes, codebook_sizes=(6, 6, 6), features=torch.randn(items, 4))
    model = gf.Recommender(recipe, catalog)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


def small(name, **decoder):
    recipe = getattr(gf.recipes, name)()
    shapes = {"marius": {"width": 16, "num_heads": 2, "hidden": 32, "depth_hidden": 32}, "tiger": {}}
    if name == "tiger":
        backbone = gf.T5Config(width=16, num_layers=2, num_heads=2, head_width=8, hidden=32)
    else:
        backbone = gf.TimelineConfig(num_layers=2, num_depth_layers=2, **shapes[name])
    return dataclasses.replace(recipe, backbone=backbone, decoder=BestFirstConfig(**decoder))

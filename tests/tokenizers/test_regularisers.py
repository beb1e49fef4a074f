from __future__ import annotations

import dataclasses
import functools
import json
import math

import pytest
import torch

from genrec_fast.base import config as configs
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.recipe.card import from_json, register_config, to_json
from genrec_fast.recipes import tiger
from genrec_fast.tokenizers import (
    RQVAE,
    AlignmentConfig,
    ContrastiveConfig,
    CoOccurrenceConfig,
    DiversityConfig,
    RQVAEConfig,
    TagSupervisionConfig,
)
from genrec_fast.tokenizers.regularisers import CodedBatch, FitContext, Regulariser
from genrec_fast.tokenizers.regularisers.base import contrast
from shared.catalogs import wide

SMALL = {
    "codebook_sizes": (4, 8),
    "hidden_sizes": (32,),
    "latent_dim": 8,
    "steps": 200,
    "autoencoder_share": 0.25,
    "batch_size": 128,
}
EVERY = (
    AlignmentConfig(),
    CoOccurrenceConfig(),
    ContrastiveConfig(),
    TagSupervisionConfig(),
    DiversityConfig(groups=2, regroup_every=20),
)


@dataclasses.dataclass
class World:
    """Items of 4 kinds by their features, which drown 4 tastes that histories follow."""

    features: torch.Tensor
    kinds: torch.Tensor
    tastes: torch.Tensor
    histories: Jagged


def world(count=800, users=600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(4, (count,), generator=generator)
    tastes = torch.randint(4, (count,), generator=generator)
    of_kind, of_taste = torch.randn(4, 10, generator=generator), 0.6 * torch.randn(4, 10, generator=generator)
    features = of_kind[kinds] + of_taste[tastes] + 0.05 * torch.randn(count, 10, generator=generator)
    rows = []
    for user in range(users):
        liked = (tastes == user % 4).nonzero().squeeze(1)
        rows.append(liked[torch.randint(len(liked), (8,), generator=generator)])
    return World(features, kinds, tastes, Jagged.from_rows(rows))


def agreement(codes, labels):
    """Mutual information over the entropy of the labels: 0 for independent ones, 1 where codes tell labels."""
    joint = torch.zeros(int(codes.max()) + 1, int(labels.max()) + 1, dtype=torch.float64)
    joint.index_put_((codes.long(), labels), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    joint /= joint.sum()
    alone = joint.sum(1, keepdim=True) * joint.sum(0)
    labels_alone = joint.sum(0)
    information = torch.where(joint > 0, joint * (joint / alone).log(), 0.0).sum()
    return float(information / -(labels_alone * labels_alone.log()).sum())


def fitted(given, *regularisers, **settings):
    tokenizer = RQVAEConfig(**{**SMALL, **settings}, regularisers=regularisers).build(wide(10))
    categories = torch.stack([given.tastes, given.kinds], 1)
    tokenizer.fit(given.features, histories=given.histories, categories=categories)
    return tokenizer


@functools.cache
def without():
    """A world and a tokenizer of it that has no regularisers."""
    given = world()
    return given, fitted(given)


def context(given, **changes):
    fields = {
        "num_items": len(given.features),
        "feature_dim": 10,
        "latent_dim": 8,
        "codebook_sizes": (4, 8),
        "histories": given.histories,
        "categories": torch.stack([given.tastes, given.kinds], 1),
        "generator": torch.Generator().manual_seed(0),
    }
    return FitContext(**{**fields, **changes})


def coded(member, given, latent, books, size=64):
    """A batch whose codes and vectors are those of ``books``, the asked items behind it."""
    items = torch.arange(size)
    rows = torch.cat([items, member.ask(items)])
    codes = torch.stack([torch.arange(len(rows)) % len(book) for book in books], 1)
    through, prefixes, total = latent[rows] - latent[rows].detach(), [], 0
    for column, book in zip(codes.T, books, strict=True):
        total = total + book[column]
        prefixes.append(total + latent[rows].detach() + through)
    return CodedBatch(
        items=rows,
        size=size,
        asked=slice(size, len(rows)),
        features=given.features[rows],
        reconstruction=prefixes[-1] @ torch.arange(80.0).view(8, 10).sin(),
        latent=latent[rows],
        prefixes=tuple(prefixes),
        codes=codes,
        codebooks=tuple(books),
    )


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_one_step_down_its_gradient_lowers_it(config):
    given, generator = world(), torch.Generator().manual_seed(1)
    member = config.build(context(given))
    latent = torch.randn(800, 8, generator=generator, requires_grad=True)
    books = [torch.randn(size, 8, generator=generator, requires_grad=True) for size in (4, 8)]
    state = member_generator_state(member)
    before = member(coded(member, given, latent, books))
    learned = books if config.learned_codebooks else [latent]
    gradients = torch.autograd.grad(before, learned)
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    with torch.no_grad():
        for value, gradient in zip(learned, gradients, strict=True):
            value -= 0.05 * gradient
    restore(member, state)
    assert float(member(coded(member, given, latent, books)).detach()) < float(before.detach())


def member_generator_state(member):
    generator = getattr(member, "generator", None)
    return None if generator is None else generator.get_state()


def restore(member, state):
    if state is not None:
        member.generator.set_state(state)
    if hasattr(member, "steps"):
        member.steps = 0


def test_alignment_and_co_occurrence_make_codes_tell_tastes():
    given, fit = without()
    plain = agreement(fit.item_codes[:, 0], given.tastes)
    aligned = agreement(fitted(given, AlignmentConfig(weight=1.0)).item_codes[:, 0], given.tastes)
    near = agreement(fitted(given, CoOccurrenceConfig()).item_codes[:, 0], given.tastes)
    assert plain < 0.05  # without it the first code tells the kind
    assert aligned > 0.15
    assert near > 0.9


def test_tags_are_told_by_the_level_they_belong_to():
    given, plain = without()
    tagged = fitted(given, TagSupervisionConfig(weight=1.0))
    assert agreement(plain.item_codes[:, 0], given.tastes) < 0.05
    assert agreement(tagged.item_codes[:, 0], given.tastes) > 0.15
    assert tagged.history[-1]["loss.TagSupervision"] < 0.8 * tagged.history[0]["loss.TagSupervision"]


def test_contrastive_reconstruction_tells_items_apart():
    given, plain = without()
    told = fitted(given, ContrastiveConfig(weight=1.0))

    def loss(tokenizer):
        scaled = (given.features - given.features.mean(0))[:200]
        decoded = (tokenizer.decode(tokenizer.item_codes) - given.features.mean(0))[:200]
        return float(contrast(decoded, scaled, 0.1))

    assert loss(told) < loss(plain)


def test_diversity_groups_the_codes():
    given, settings = world(), {"decay": None, "codebook_sizes": (16, 16)}
    plain = fitted(given, **settings)
    grouped = fitted(given, DiversityConfig(weight=1.0, groups=4), **settings)

    def nearest(tokenizer):  # how close a code has another one
        book = torch.nn.functional.normalize(tokenizer.codebooks[1], dim=1)
        return float((book @ book.T).fill_diagonal_(-1).amax(1).mean())

    assert nearest(grouped) > nearest(plain) + 0.05


def test_all_at_once_save_load_and_the_seed(tmp_path):
    given = world(count=200, users=100)
    settings = {"steps": 40, "autoencoder_share": 0.25, "decay": None}
    tokenizer = fitted(given, *EVERY, **settings)
    assert torch.equal(tokenizer.item_codes, fitted(given, *EVERY, **settings).item_codes)
    for config in EVERY:
        name = f"loss.{type(config).__name__.removesuffix('Config')}"
        assert all(math.isfinite(row[name]) for row in tokenizer.history)
        assert tokenizer.history[-1][name] > 0
    tokenizer.save(tmp_path / "tok.safetensors")
    again = RQVAE.load(tmp_path / "tok.safetensors")
    assert again.config == tokenizer.config
    assert again.history == tokenizer.history
    assert torch.equal(again.encode(given.features), tokenizer.encode(given.features))


def test_a_recipe_that_has_them_comes_back_from_json():
    config = RQVAEConfig(regularisers=EVERY, decay=None, temperatures=(2.0, 0.5), hidden_sizes=(64, 32))
    recipe = dataclasses.replace(tiger(), tokenizer=config)
    text = json.loads(json.dumps(to_json(recipe)))
    assert from_json(text) == recipe
    text["tokenizer"]["regularisers"][0]["kind"] = "No"
    with pytest.raises(CorruptFileError, match="regularisers: kind must be a registered config type, got 'No'"):
        from_json(text)


def test_items_without_histories_and_tags_are_left_out():
    given = world(count=100, users=20)
    given.histories = Jagged.from_rows([[0, 1], [5]])
    given.tastes = torch.full_like(given.tastes, -1)
    tokenizer = fitted(given, AlignmentConfig(), CoOccurrenceConfig(), TagSupervisionConfig(), steps=60)
    assert math.isfinite(tokenizer.mse)
    given.histories = Jagged.from_rows([])
    given.kinds = given.tastes
    nothing = fitted(given, AlignmentConfig(), CoOccurrenceConfig(), TagSupervisionConfig(), steps=60)
    assert nothing.history[-1]["loss.Alignment"] == nothing.history[-1]["loss.CoOccurrence"] == 0
    assert nothing.history[-1]["loss.TagSupervision"] == 0
    assert math.isfinite(nothing.mse)


def test_neighbours_are_drawn_from_the_window():
    given = world()
    given.histories = Jagged.from_rows([[0, 1, 2, 3], [4, 4], [5]])
    member = CoOccurrenceConfig(window=1).build(context(given))
    drawn = {item: set() for item in range(6)}
    for _ in range(60):
        items = torch.arange(6)
        found = member.ask(items)
        for item, partner in zip(member.anchors.tolist(), found.tolist(), strict=True):
            drawn[item].add(partner)
    assert drawn == {0: {1}, 1: {0, 2}, 2: {1, 3}, 3: {2}, 4: set(), 5: set()}


def test_contrast_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    hidden = torch.zeros(5, 5, dtype=torch.bool)
    hidden[0, 3] = True
    wanted = 0.0
    for i in range(5):
        s = [float(torch.cosine_similarity(queries[i], keys[j], dim=0)) / 0.5 for j in range(5)]
        kept = [math.exp(v) for j, v in enumerate(s) if not hidden[i, j]]
        wanted -= math.log(math.exp(s[i]) / sum(kept)) / 5
    assert float(contrast(queries, keys, 0.5, hidden)) == pytest.approx(wanted, rel=1e-5)
    assert float(contrast(queries[:0], keys[:0], 0.5)) == 0


@register_config
@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkConfig:
    weight: float = 1.0
    sizes: tuple[int, ...] = (1, 2)
    learned_codebooks = False

    def build(self, context):
        return Shrink()


class Shrink(Regulariser):
    def forward(self, batch):
        return batch.latent.square().mean()


def test_one_of_your_own(tmp_path):
    given = world(count=100, users=20)
    tokenizer = fitted(given, ShrinkConfig(), steps=60)
    assert tokenizer.history[-1]["loss.Shrink"] < tokenizer.history[0]["loss.Shrink"]
    tokenizer.save(tmp_path / "tok.safetensors")
    assert RQVAE.load(tmp_path / "tok.safetensors").config == tokenizer.config
    with pytest.raises(InvalidTypeError, match="register_config: kind must be a frozen dataclass, got"):
        register_config(Shrink)
    with pytest.raises(CorruptFileError, match="load: regularisers: kind must be a registered config type, got 'No'"):
        configs.from_json(RQVAEConfig, {"regularisers": [{"kind": "No"}]}, "load", defaults=True)


def test_one_registration_is_enough(tmp_path):
    """In a recipe's JSON and in a tokenizer's file."""
    recipe = dataclasses.replace(tiger(), tokenizer=RQVAEConfig(regularisers=(ShrinkConfig(weight=0.5),)))
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
    tokenizer = fitted(world(count=100, users=20), ShrinkConfig(weight=0.5), steps=10)
    tokenizer.save(tmp_path / "tok.safetensors")
    assert RQVAE.load(tmp_path / "tok.safetensors").config == tokenizer.config
    assert register_config(ShrinkConfig) is ShrinkConfig
    with pytest.raises(InvalidValueError, match="kind must have a name of its own, got 'ShrinkConfig' again"):
        register_config(dataclasses.dataclass(frozen=True)(type("ShrinkConfig", (), {})))


def test_messages_name_argument_rule_and_value():
    given = world(count=100, users=20)
    with pytest.raises(InvalidValueError, match=r"Alignment: histories \(of the training split\) must be given to fit"):
        AlignmentConfig().build(context(given, histories=None))
    with pytest.raises(InvalidValueError, match=r"CoOccurrence: histories must hold item ids in \[0, 10\), got 99"):
        CoOccurrenceConfig().build(context(given, num_items=10, histories=Jagged.from_rows([[0, 99]])))
    with pytest.raises(InvalidValueError, match="TagSupervision: categories must be given to fit, got None"):
        TagSupervisionConfig().build(context(given, categories=None))
    with pytest.raises(
        InvalidTypeError, match=r"TagSupervision: categories must be integers \[N, depth\], got torch.f"
    ):
        TagSupervisionConfig().build(context(given, categories=torch.zeros(100, 2)))
    with pytest.raises(InvalidValueError, match=r"TagSupervision: categories must be \[100, depth\], got \[99, 2\]"):
        TagSupervisionConfig().build(context(given, categories=torch.zeros(99, 2, dtype=torch.int64)))
    with pytest.raises(InvalidValueError, match="TagSupervision: categories must be at least -1, got -2"):
        TagSupervisionConfig().build(context(given, categories=torch.full((100, 1), -2)))
    with pytest.raises(InvalidValueError, match="AlignmentConfig: temperature must be above 0 and finite, got 0"):
        AlignmentConfig(temperature=0.0)
    with pytest.raises(InvalidValueError, match="ContrastiveConfig: weight must be at least 0 and finite, got nan"):
        ContrastiveConfig(weight=math.nan)
    with pytest.raises(InvalidTypeError, match="TagSupervisionConfig: weight must be a number, got 'much'"):
        TagSupervisionConfig(weight="much")
    with pytest.raises(InvalidValueError, match="DiversityConfig: groups must be at least 1, got 0"):
        DiversityConfig(groups=0)
    with pytest.raises(InvalidValueError, match=r"RQVAEConfig: decay must be None .* with DiversityConfig, got 0.95"):
        RQVAEConfig(regularisers=(DiversityConfig(),))
    with pytest.raises(InvalidTypeError, match="RQVAEConfig: regularisers must be a tuple of regulariser configs, got"):
        RQVAEConfig(regularisers=AlignmentConfig())
    with pytest.raises(InvalidValueError, match="RQVAEConfig: regularisers must be of different kinds, got Alignment"):
        RQVAEConfig(regularisers=(AlignmentConfig(), AlignmentConfig(weight=1.0)))

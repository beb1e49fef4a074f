from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import FlatDiffusionConfig, SlotDiffusionConfig, T5Config
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import Dataset, Interactions, leave_one_out
from genrec_fast.data.synthetic import Shop
from genrec_fast.decoders import BeamConfig, GraphConfig, ScanCodesConfig
from genrec_fast.evaluation import evaluate
from genrec_fast.objectives import BehaviourCodesConfig, MultiTaskConfig, NextCodeConfig
from genrec_fast.recipe.recommender import load
from genrec_fast.recipes.page import markdown
from genrec_fast.tokenizers import AtomicConfig, FSQConfig, OPQConfig
from genrec_fast.training import train
from shared.catalogs import sized

# Those that must be told what users did.
RANKING = [
    name for name in recipes.names() if isinstance(recipes.get(name).objective, (MultiTaskConfig, BehaviourCodesConfig))
]


LARGE = (T5Config, FlatDiffusionConfig, SlotDiffusionConfig)  # backbones that are too slow for a test as they are


def reads_times(model):
    return getattr(model.backbone, "reads_times", False)


class Tagged(Dataset):
    """A dataset whose catalog has categories of two levels."""

    @property
    def catalog(self):
        words = [[f"kind {number % 3}", f"sort {number % 7}"] for number in range(self.num_items)]
        return dataclasses.replace(super().catalog, categories=words)


def rated(data, recipe):
    """The data with what users did, as the recipe's actions name it."""
    events = data.interactions
    done = torch.stack([events.items.values % 2 == 0, events.items.values % 6 == 0], 1)
    events = dataclasses.replace(events, actions=done, action_names=recipe.objective.actions)
    return dataclasses.replace(data, interactions=events)


def small(recipe):
    """The recipe with its own kinds of parts, in sizes that train within a second."""
    sizes = {"codebook_sizes": (8, 8), "steps": 40, "rotations": 2, "hidden_sizes": (16,), "latent_dim": 8}
    if isinstance(recipe.tokenizer, FSQConfig):
        sizes = {"steps": ((2, 4), (2, 4)), "training_steps": 40}
    tokenizer = None if recipe.tokenizer is None else shrunk(recipe.tokenizer, sizes)
    narrow = (
        {"num_layers": 1, "width": 32, "hidden": 32}
        if isinstance(recipe.backbone, (T5Config, FlatDiffusionConfig))
        else {}
    )
    return dataclasses.replace(recipe, tokenizer=tokenizer, backbone=dataclasses.replace(recipe.backbone, **narrow))


def shrunk(config, sizes):
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: value for name, value in sizes.items() if name in known})


def beginning(recipe, data):
    """The model to start from, where a recipe needs one.

    A draft is trained for its own backbone, trained to write codes; items that are not trained have the vectors of a
    network whose items were.
    """
    if recipe.needs_start:
        first = dataclasses.replace(recipe, objective=NextCodeConfig(), decoder=BeamConfig(num_beams=10))
        return train(first, data, device="cpu", show_progress=False)
    items = getattr(recipe.backbone, "items", None)
    if items is None or items.learned_ids:
        return None
    backbone = dataclasses.replace(recipe.backbone, items=dataclasses.replace(items, learned_ids=True))
    return train(dataclasses.replace(recipe, backbone=backbone), data, device="cpu", show_progress=False)


def test_the_registry():
    assert recipes.names() == [
        "apex",
        "atspeed",
        "bert4rec",
        "car",
        "ccfrec",
        "cobra",
        "colarec",
        "cost",
        "dfgr",
        "diffgrm",
        "discrec",
        "dsi",
        "eager",
        "earn",
        "genrank",
        "gpsd",
        "gpsd_pretraining",
        "grid",
        "gru4rec",
        "h2rec",
        "hid_vae",
        "hstu",
        "hstu_ranking",
        "kuaiformer",
        "letter",
        "liger",
        "llada_rec",
        "llm2bert4rec",
        "marius",
        "mbgen",
        "mmgrec",
        "mtgr",
        "nci",
        "nezha",
        "pinrec",
        "recbase",
        "recgpt_fsq",
        "rpg",
        "rq_vae",
        "s2gr",
        "sasrec",
        "sasrec_bce",
        "seater",
        "sessionrec",
        "specgr",
        "tbgrecall",
        "tiger",
        "transitions",
        "unified_sid_id",
        "vq_rec",
        "vq_vae",
    ]
    assert recipes.get("tiger") == recipes.tiger()
    known = ", ".join(recipes.names())
    with pytest.raises(InvalidValueError, match=f"^recipes: name must be one of {known}, got 'bert'"):
        recipes.get("bert")


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_cites_its_source_and_states_its_deviations(name):
    recipe = recipes.get(name)
    assert recipe.name == name
    assert "arXiv:" in recipe.source
    assert recipe.deviations
    assert recipe.measured


@pytest.mark.parametrize("name", recipes.names())
def test_weight_decay_on_embedding_tables_is_named(name):
    recipe = recipes.get(name)
    decays = recipe.train.weight_decay > 0 and recipe.train.decay_embeddings
    published = name == "bert4rec"  # 0.01 on all but norms and biases, as here
    named = [text for text in recipe.deviations if "weight decay" in text and "embedding tables" in text]
    assert len(named) == int(decays and not published)
    assert all(str(recipe.train.weight_decay) in text for text in named)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "hstu",
            ["in place of 61", "removes the history's items", "have weights and biases", "all of a user"],
        ),
        ("sasrec_bce", ["keys and values", "a projection follows the attention", "dropout", "positions", "residuals"]),
        ("marius", ["COSETTE"]),
        ("apex", ["have no part in", "as good as removed", "never trained"]),
        ("liger", ["in place of 6", "Sentence-T5-XXL", "end token closes", "trie"]),
        ("cobra", ["in place of 768", "text encoder", "both softmaxes", "trie"]),
        ("atspeed", ["LLaMA-7B", "first level", "without a second softmax", "target's beams"]),
        ("nezha", ["Qwen3-0.6B", "in place of 512", "before the best are chosen"]),
        ("earn", ["one register at each end", "language model", "which positions", "we have not read"]),
        ("specgr", ["UniSRec", "in batch", "RQ-VAE", "trie", "end token"]),
        ("rpg", ["width 128", "text-embedding-3-large", "not dropped", "in place of means"]),
        ("diffgrm", ["Sentence-T5", "tuples that are no item", "takes its likeliest", "did not find"]),
        ("llada_rec", ["product quantization", "one stands for all", "may be no item", "longest row of the batch"]),
        ("car", ["no code is public", "one position"]),
        ("colarec", ["LightGCN", "words of its text", "users who chose it"]),
        ("eager", ["trained DIN", "sum of both decoders", "empty ones"]),
        ("mmgrec", ["Graph RQ-VAE", "popularity", "the target included"]),
        ("s2gr", ["co-occurrence graph", "own code vectors", "are ours"]),
        ("bert4rec", ["dropout of 0.2, and none of the attention's weights, in place of 0.5 and 0.2"]),
        ("tiger", ["title, price, brand and category", "end token", "head has weights of its own", "trie"]),
    ],
)
def test_what_changes_results_is_named(name, words):
    text = "\n".join(recipes.get(name).deviations)
    assert [word for word in words if word not in text] == []


def test_the_settings_that_deviations_speak_of():
    """Sentences in the recipes that would be wrong if these changed."""
    hstu, bert, ranking = recipes.hstu(), recipes.bert4rec(), recipes.hstu_ranking()
    assert (hstu.backbone.longest, hstu.backbone.epsilon, hstu.batching.window) == (50, 1e-6, "all")
    assert (ranking.backbone.epsilon, bert.backbone.dropout) == (1e-6, 0.2)
    assert recipes.sasrec_bce().batching.window == recipes.sasrec().batching.window == "all"
    assert recipes.sasrec_bce().backbone.build(sized((), 5)).norm.eps == 1e-5


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_trains_saves_loads_and_recommends(name, tmp_path):
    data, recipe = Tagged(**vars(Shop(80).dataset(60))), recipes.get(name)
    if name in RANKING:
        data = rated(data, recipe)
    train_ = dataclasses.replace(recipe.train, epochs=1, evaluate_beams=10)
    recipe = dataclasses.replace(small(recipe), train=train_)
    options = {"device": "cpu", "show_progress": False}
    model = train(recipe, data, out=tmp_path, start=beginning(recipe, data), **options)
    test = leave_one_out(data.interactions).test
    histories, times, known = test.histories, {}, {}
    if name in RANKING and recipe.layout.actions != "none":
        with pytest.raises(InvalidValueError, match="batch must have actions, got None"):
            model.recommend(histories, 5)
        known = {"actions": Jagged(test.actions, histories.offsets)}
    if reads_times(model):
        times = {"timestamps": Jagged(test.timestamps, histories.offsets), "target_timestamps": test.target_timestamps}
        with pytest.raises(InvalidValueError, match="batch must have timestamps, got None"):
            model.recommend(histories, 5, **known)
    times |= known
    top = model.recommend(histories, 5, num_beams=20, **times)
    again = load(tmp_path).recommend(histories, 5, num_beams=20, users_per_batch=7, **times)
    assert top.items.shape == (60, 5)
    assert bool((top.items >= 0).all())
    assert torch.allclose(top.scores, again.scores, atol=1e-4)
    unseen = model.recommend(histories, 5, exclude_seen=True, **times)
    for row, history in zip(unseen.items, histories.rows(), strict=True):
        assert not set(row.tolist()) & set(history.tolist())


def test_a_ranking_starts_from_what_predicted_items_and_freezes_them():
    """GPSD: the second stage has the first one's weights, trains the rest, and leaves every item where it was."""
    data = rated(Shop(80).dataset(40), recipes.gpsd())
    first = recipes.gpsd_pretraining()
    options = {"device": "cpu", "show_progress": False}
    model = train(dataclasses.replace(first, train=dataclasses.replace(first.train, epochs=1)), data, **options)
    second = recipes.gpsd()
    ranking = train(
        dataclasses.replace(second, train=dataclasses.replace(second.train, epochs=1)), data, start=model, **options
    )
    before, after = model.backbone.state_dict(), ranking.backbone.state_dict()
    assert before.keys() == after.keys()
    assert torch.equal(before["items.weight"], after["items.weight"])
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"layers.0.uvqk.weight", "action_head.2.weight"} <= moved
    with pytest.raises(InvalidValueError, match=r"^train: start must be a trained model for gpsd, as its items' emb"):
        train(second, data, **options)


@pytest.mark.parametrize("name", recipes.names())
def test_one_user_one_item_and_one_level_are_enough(name, tmp_path):
    items = Jagged.from_rows([[0] * 5])
    rated = torch.tensor([[True, False], [False, True], [True, True], [False, False], [True, False]])
    actions = ("rating>=4", "rating>=5")
    events = Interactions(items, torch.arange(5) * 60, ["user"], ["item"], actions=rated, action_names=actions)
    data = Dataset("tiny", events, titles=None, features=torch.ones(1, 3))
    recipe = recipes.get(name)
    parts = {"train": dataclasses.replace(recipe.train, epochs=2)}
    if recipe.tokenizer is not None:
        parts["tokenizer"] = AtomicConfig()
    recipe = dataclasses.replace(recipe, **parts)
    options = {"device": "cpu", "show_progress": False}
    model = train(recipe, data, out=tmp_path, start=beginning(recipe, data), **options)
    test = leave_one_out(events).test
    known = {"timestamps": Jagged(test.timestamps, test.histories.offsets)} if reads_times(model) else {}
    known |= {"actions": Jagged(test.actions, test.histories.offsets)} if name in RANKING else {}
    for again in (model, load(tmp_path)):
        assert again.recommend(test.histories, 2, **known).items.tolist() == [[0, -1]]
    assert evaluate(model, test).recall == {5: 1.0, 10: 1.0}


@pytest.mark.parametrize("decoder", [GraphConfig(num_beams=9, num_edges=8), ScanCodesConfig()])
def test_more_levels_than_a_trie_has(decoder, tmp_path):
    """12 of them: no trie is built, and every search but one over a trie goes on."""
    data, recipe = Shop(80, feature_dim=12).dataset(60), recipes.rpg()
    parts = {"tokenizer": OPQConfig(codebook_sizes=(8,) * 12, dedup="none", rotations=2), "decoder": decoder}
    parts["train"] = dataclasses.replace(recipe.train, epochs=1)
    model = train(dataclasses.replace(recipe, **parts), data, out=tmp_path, device="cpu", show_progress=False)
    histories = leave_one_out(data.interactions).test.histories
    best = model.recommend(histories, 5, exact=True)
    assert model.trie is None
    assert best.codes.shape == (60, 5, 12)
    assert bool(best.exact.all())
    found = load(tmp_path).recommend(histories, 5)
    assert bool((found.scores <= best.scores + 1e-4).all())
    assert bool((found.bound >= best.scores[:, 0] - 1e-4)[~found.exact].all())
    assert bool(found.exact.all()) == (decoder == ScanCodesConfig())


def test_more_levels_than_a_trie_has_and_items_found_by_vectors(tmp_path):
    """12 of them, too: no trie is built, or saved."""
    data, recipe = Shop(80, feature_dim=12).dataset(60), recipes.vq_rec()
    parts = {"tokenizer": OPQConfig(codebook_sizes=(8,) * 12, dedup="none", rotations=2)}
    parts["train"] = dataclasses.replace(recipe.train, epochs=1)
    model = train(dataclasses.replace(recipe, **parts), data, out=tmp_path, device="cpu", show_progress=False)
    model.merge()
    assert model.trie is None
    histories = leave_one_out(data.interactions).test.histories
    assert torch.equal(model.recommend(histories, 5).items, load(tmp_path).recommend(histories, 5).items)


def test_the_page_in_docs_is_the_one_the_command_writes():
    page = Path(__file__).parents[2] / "docs" / "recipes.md"
    assert page.read_text(encoding="utf-8") == markdown()

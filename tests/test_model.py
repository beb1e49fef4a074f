from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import T5Config
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.cli import main
from genrec_fast.recipe.recommender import Recommender, load
from genrec_fast.tokenizers import RandomConfig
from toy import ToyDecoder, toy_data, toy_recipe

HISTORIES = [[1, 2, 3], [4], [5, 6]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    recipe, data = toy_recipe(), toy_data()
    sizes = (data.num_items,)
    return Recommender(recipe, data.catalog.with_codes(torch.arange(30, dtype=torch.int32)[:, None], sizes))


def test_lists_and_jagged_give_the_same(model):
    left = model.recommend(HISTORIES, 4)
    right = model.recommend(Jagged.from_rows(HISTORIES), 4)
    assert left.items.shape == (3, 4)
    assert torch.equal(left.items, right.items)
    assert torch.equal(left.scores, right.scores)


def test_users_per_batch_does_not_change_the_answer(model):
    whole = model.recommend(HISTORIES, 4)
    for users in (1, 2):
        assert torch.equal(model.recommend(HISTORIES, 4, users_per_batch=users).items, whole.items)


def test_only_the_last_items_are_read(model):
    long = [list(range(20))]
    assert torch.equal(model.recommend(long, 3).scores, model.recommend([long[0][-8:]], 3).scores)


def test_nothing_seen_nothing_excluded_nothing_outside_what_is_allowed(model):
    long = [list(range(12)), [29]]  # longer than the 8 items that the model reads
    seen = model.recommend(long, 15, exclude_seen=True).items
    assert not set(seen[0].tolist()) & set(range(12))
    assert 29 not in seen[1].tolist()
    both = model.recommend(long, 15, exclude_seen=True, exclude=Jagged.from_rows([[12], [3, 4]])).items
    assert not set(both[0].tolist()) & set(range(13))
    assert not set(both[1].tolist()) & {3, 4, 29}
    allowed = torch.zeros(2, 30, dtype=torch.bool)
    allowed[0, 20:23] = allowed[1, 5:7] = True
    found = model.recommend(long, 3, allowed=allowed, users_per_batch=1).items
    assert set(found[0].tolist()) == {20, 21, 22}
    assert set(found[1].tolist()) == {5, 6, -1}
    assert set(model.recommend(long, 3, allowed=allowed[0]).items[1].tolist()) == {20, 21, 22}


def test_eval_mode_during_the_search_and_the_old_modes_afterwards(model, monkeypatch):
    model.backbone.train()
    model.backbone.mix.eval()
    during = []
    original = ToyDecoder.scored

    def scored(self, backbone, *arguments, **options):
        during.append((backbone.training, torch.is_grad_enabled()))
        return original(self, backbone, *arguments, **options)

    monkeypatch.setattr(ToyDecoder, "scored", scored)
    model.recommend(HISTORIES, 3)
    assert during == [(False, False)]
    assert model.backbone.training
    assert not model.backbone.mix.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        ([[1], []], InvalidValueError, "histories must not be empty, but row 1 is: this model learned no start"),
        ([], InvalidValueError, "histories must have at least one row, got none"),
        ([[30]], InvalidValueError, r"histories must hold item ids in \[0, 30\), got 30"),
        ([[-1]], InvalidValueError, r"histories must hold item ids in \[0, 30\), got -1"),
        ([1, 2], InvalidTypeError, r"histories must be lists of item ids .* got \[1, 2\]"),
        (
            [["thing 1", "thing 30"]],
            InvalidValueError,
            r"each item of histories must be one of the catalog's 30 names \(such as 'thing 0'\), got 'thing 30'",
        ),
        ([[1.5]], InvalidTypeError, r"histories must be lists of item ids .* got \[\[1\.5\]\]"),
        ([[True]], InvalidTypeError, r"histories must be lists of item ids"),
        ([torch.tensor([1.0])], InvalidTypeError, r"histories must be lists of item ids"),
        (torch.tensor([1, 2]), InvalidTypeError, r"histories must be lists of item ids"),
        (None, InvalidTypeError, r"histories must be lists of item ids .* got None"),
        (Jagged.from_rows([[1]], torch.int32), InvalidTypeError, r"histories must be int64 \[E\], got torch\.int32"),
    ],
)
def test_histories_that_are_none(model, histories, error, message):
    with pytest.raises(error, match=f"^recommend: {message}"):
        model.recommend(histories)


def test_filters_and_numbers_that_do_not_fit(model):
    with pytest.raises(InvalidValueError, match=r"^recommend: allowed must be \[30\] or \[3, 30\], got \[2, 30\]"):
        model.recommend(HISTORIES, allowed=torch.ones(2, 30, dtype=torch.bool))
    with pytest.raises(InvalidValueError, match=r"^recommend: exclude must have 3 rows, got 1"):
        model.recommend(HISTORIES, exclude=Jagged.from_rows([[1]]))
    with pytest.raises(InvalidValueError, match=r"^recommend: k must be at least 1, got 0"):
        model.recommend(HISTORIES, 0)
    with pytest.raises(InvalidValueError, match=r"^recommend: users_per_batch must be at least 1, got 0"):
        model.recommend(HISTORIES, users_per_batch=0)
    with pytest.raises(InvalidTypeError, match=r"^recommend: k must be an int, got 1.5"):
        model.recommend(HISTORIES, 1.5)
    for beams in ("5", 2.0, True):
        with pytest.raises(InvalidTypeError, match=rf"^recommend: num_beams must be an int, got {beams!r}"):
            model.recommend(HISTORIES, 2, num_beams=beams)
    for item in (1 << 70, -(1 << 70), 1 << 63):
        with pytest.raises(InvalidValueError, match=rf"^recommend: histories must hold item ids in .*got .*{item}"):
            model.recommend([[1, item]], 2)


def test_histories_may_be_arrays_and_tensors(model):
    wanted = model.recommend([[1, 2], [3, 4]], 5).items
    for rows in (np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]]), [np.array([1, 2]), torch.tensor([3, 4])]):
        assert torch.equal(model.recommend(rows, 5).items, wanted)


def test_names_and_titles(model):
    assert model.numbers(["thing 7", "thing 0"]) == [7, 0]
    with pytest.raises(InvalidValueError, match=r"one of the catalog's 30 names \(such as 'thing 0'\), got 'thing 99'"):
        model.numbers(["thing 1", "thing 99"])
    assert model.title(3) == "Title 3"
    assert model.title(torch.tensor(3)) == "Title 3"
    model.catalog = dataclasses.replace(model.catalog, titles=None)
    assert model.title(3) == "thing 3"
    model.catalog = dataclasses.replace(model.catalog, item_ids=[f"new {i}" for i in range(30)])
    assert model.numbers(["new 7"]) == [7]  # names are the catalog's, not remembered
    assert model.title(3) == "new 3"
    for item, text in ((-1, "-1, which stands behind a user's last result"), (30, "30"), (-30, "-30")):
        with pytest.raises(InvalidValueError, match=rf"title must be asked for an item id in \[0, 30\), got {text}$"):
            model.title(item)
    with pytest.raises(InvalidTypeError, match=r"title must be asked for an item id, got 1.5"):
        model.title(1.5)


def test_what_is_behind_the_last_result_is_no_item_to_exclude(model):
    with pytest.raises(InvalidValueError, match=r"recommend: exclude must hold item ids in \[0, 30\), got -1"):
        model.recommend([[1]], 5, exclude=Jagged.from_rows([[2, -1]]))
    with pytest.raises(InvalidTypeError, match=r"recommend: allowed must be bool, got int64"):
        model.recommend([[1]], 5, allowed=torch.ones(30, dtype=torch.int64))


def test_a_saved_model_gives_the_same_bits(model, tmp_path):
    model.save(tmp_path / "deep" / "folder")
    again = load(tmp_path / "deep" / "folder")
    assert again.recipe == model.recipe
    assert (again.item_ids, again.titles) == (model.item_ids, model.titles)
    assert not again.backbone.training
    left, right = model.recommend(HISTORIES), again.recommend(HISTORIES)
    assert torch.equal(left.items, right.items)
    assert torch.equal(left.scores, right.scores)


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "items.json"])
def test_a_missing_file_is_named(model, tmp_path, name):
    model.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CorruptFileError, match=f"must hold a trained model, but {name} is missing"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "items.json"])
def test_a_file_cut_short_is_named(model, tmp_path, name):
    model.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match=f"{name} is cut short or altered"):
        load(tmp_path)


def test_one_altered_byte_is_noticed(model, tmp_path):
    model.save(tmp_path)
    content = bytearray((tmp_path / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"weights\.safetensors is cut short or altered: its checksum"):
        load(tmp_path)


def test_an_unknown_version_or_key_is_corrupt(model, tmp_path):
    model.save(tmp_path)
    card = json.loads((tmp_path / "recipe.json").read_text())
    for change, message in (
        ({"version": 3}, "must be a recommender's card of version 1 to 2"),
        ({"sha256": None}, "lacks or misstates a key"),
        ({"recipe": card["recipe"] | {"mood": "good"}}, "Recipe has unknown key 'mood'"),
    ):
        (tmp_path / "recipe.json").write_text(json.dumps(card | change))
        with pytest.raises(CorruptFileError, match=message):
            load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("num_items", -1, "num_items must be at least 0, got -1"),
        ("num_items", 10**12, "num_items must be at most"),
        ("num_items", 7, "must have one row per item = 7"),
        ("feature_dim", -1, "feature_dim must be that of the weights, got -1"),
        ("feature_dim", "x", "lacks or misstates a key"),
        ("codebook_sizes", None, "lacks or misstates a key"),
        ("sha256", {}, "must hold the checksum of weights.safetensors, got none"),
    ],
)
def test_a_card_of_the_first_version_that_misstates_is_corrupt(tmp_path, key, value, text):
    shutil.copytree(Path(__file__).parent / "fixtures" / "saved_96c562f" / "models" / "marius", tmp_path / "m")
    card = json.loads((tmp_path / "m" / "recipe.json").read_text())
    (tmp_path / "m" / "recipe.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(CorruptFileError, match=text):
        load(tmp_path / "m")


def test_a_card_nested_too_deeply_is_corrupt(model, tmp_path):
    model.save(tmp_path)
    (tmp_path / "recipe.json").write_text("[" * 100_000)
    with pytest.raises(CorruptFileError, match="is cut short or altered"):
        load(tmp_path)


def test_one_thread_does_not_end_the_eval_mode_of_another(model):
    model.backbone.train()
    with model.answering():
        with model.answering():
            assert not model.backbone.training
        assert not model.backbone.training
    assert model.backbone.training
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with model.answering():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with model.answering():
        leave.set()
        thread.join()  # the first to come is the first to go
        assert not model.backbone.training
    assert model.backbone.training


def test_users_reach_a_recipe_with_user_tokens_also_from_the_command_line(tmp_path, capsys):
    recipe = recipes.tiger()
    small = T5Config(width=16, num_heads=2, head_width=8, num_layers=1, hidden=16, num_user_tokens=5)
    recipe = dataclasses.replace(recipe, backbone=small, tokenizer=RandomConfig(codebook_sizes=(8, 8)))
    codes = torch.stack([torch.arange(30) // 8, torch.arange(30) % 8], 1).int()
    torch.manual_seed(0)
    model = Recommender(recipe, Catalog(item_codes=codes, codebook_sizes=(8, 8)))
    nobody, first, other = (model.recommend([[1, 2]], 5, users=who).scores for who in (None, [0], torch.tensor([3])))
    assert torch.equal(nobody, first)
    assert not torch.allclose(nobody, other)
    both = model.recommend([[1, 2], [1, 2]], 5, users=[0, 3], users_per_batch=1).scores
    torch.testing.assert_close(both, torch.cat([first, other]))
    model.save(tmp_path)
    for options, scores in ([], first), (["--user", "3"], other):
        assert main(["recommend", str(tmp_path), "--history", "1", "2", "-k", "5", "--json", *options]) == 0
        shown = torch.tensor([entry["score"] for entry in json.loads(capsys.readouterr().out)["items"]])
        torch.testing.assert_close(shown, scores[0])
    assert main(["recommend", str(tmp_path), "--history", "1", "--user", "-1"]) == 2
    assert "recommend: --user must be at least 0, got -1" in capsys.readouterr().err
    for wrong in ([0], [-1, 0], [0.5, 1.0], ["a", "b"], [0, 1 << 70]):
        with pytest.raises(InvalidValueError, match=r"^recommend: users must be int64 \[2\], each at least 0, got"):
            model.recommend([[1], [2]], users=wrong)

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.base.errors import FolderInUseError, InvalidValueError, UnsupportedError
from genrec_fast.base.lock import FolderLock
from genrec_fast.data import leave_one_out
from genrec_fast.data.synthetic import Shop
from genrec_fast.evaluation import evaluate
from genrec_fast.layouts import PlainConfig
from genrec_fast.recipe.recommender import load
from genrec_fast.training import train
from toy import toy_data, toy_recipe


def counted(data, **settings):
    return train(recipes.transitions(), data, device="cpu", show_progress=False, **settings)


def test_it_finds_what_follows_and_is_saved(tmp_path):
    data = toy_data()  # item i is followed by i + 1
    model = counted(data, out=tmp_path)
    test = leave_one_out(data.interactions).test
    found = evaluate(model, test, ks=(1,))
    assert found.recall[1] > 0.95
    again = load(tmp_path)
    assert torch.equal(again.recommend(test.histories, 5).scores, model.recommend(test.histories, 5).scores)
    assert evaluate(again, test, ks=(1,)).recall == found.recall


def test_features_are_read_where_the_layout_hands_them_on():
    data = Shop(80).dataset(60)
    recipe = dataclasses.replace(recipes.transitions(), layout=PlainConfig(use_features=True))
    shown = train(recipe, data, device="cpu", show_progress=False)
    assert shown.backbone.table is not None
    assert counted(data).backbone.table is None


def test_a_graph_goes_on_from_another():
    data = toy_data()
    more = counted(data, start=counted(data))
    assert torch.equal(more.backbone.weights, 2 * counted(data).backbone.weights)


def test_a_training_of_steps_is_not_written_over(tmp_path):
    train(toy_recipe(epochs=1), toy_data(), out=tmp_path, device="cpu", show_progress=False)
    with pytest.raises(InvalidValueError, match=r"^train: out must be a new folder or one of the same training, got"):
        counted(toy_data(), out=tmp_path)
    counted(toy_data(), out=tmp_path, resume=False)
    assert load(tmp_path).name == "transitions"
    assert not (tmp_path / "checkpoint.safetensors").exists()
    with FolderLock(tmp_path, "train"), pytest.raises(FolderInUseError, match=r"^train: "):
        counted(toy_data(), out=tmp_path)


def test_there_is_no_loss_and_no_learning_by_steps():
    model = counted(toy_data())
    with pytest.raises(UnsupportedError, match=r"^Counting: there is no loss"):
        model.objective(model, None)
    stepped = toy_recipe().objective.build()
    with pytest.raises(UnsupportedError, match=r"^ToyObjective: this objective learns by steps"):
        stepped.learn(None, None)

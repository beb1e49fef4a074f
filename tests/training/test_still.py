"""A validation that does not move while the loss falls is said aloud, once in a training."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genrec_fast.base.errors import StillValidationWarning
from genrec_fast.base.files import checksum
from genrec_fast.evaluation import evaluate
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.training import loop, train, validation
from genrec_fast.training.checkpoint import Progress, load_checkpoint
from genrec_fast.training.still import say_if_still
from toy import toy_data, toy_recipe

FIGURES = {"recall@5": 0.1, "ndcg@5": 0.05, "recall@10": 0.2, "ndcg@10": 0.08}
MOVED = FIGURES | {"ndcg@10": 0.08000000000000002}


def told(state, figures, *losses):
    """What is said of one validation after some steps."""
    for loss in losses:
        state.validated_sum += loss
        state.validated_count += 1
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        say_if_still(state, figures, said.append)
    assert [f"warning: {warning.message}" for warning in caught] == said
    assert all(warning.category is StillValidationWarning for warning in caught)
    return len(said)


def course(*steps):
    state = Progress()
    return [told(state, figures, *losses) for figures, *losses in steps]


def test_three_equal_validations_under_a_falling_loss_are_said_once():
    falling = [(FIGURES, 5.0 - epoch, 4.9 - epoch) for epoch in range(6)]
    assert course(*falling) == [0, 0, 1, 0, 0, 0]
    assert course(*falling[:2], (MOVED, 3.0), *falling[3:]) == [0, 0, 0, 0, 0, 1]


def test_a_loss_that_does_not_fall_explains_it():
    assert course(*[(FIGURES, 5.0)] * 5) == [0] * 5
    assert course((FIGURES, 5.0), (FIGURES, 4.0), (FIGURES, 4.5), (FIGURES, 4.0), (FIGURES, 3.0)) == [0] * 4 + [1]
    assert course(*[(FIGURES,)] * 4) == [0] * 4  # nothing was learned in between


def test_figures_that_cannot_get_better_may_stand_still():
    perfect = dict.fromkeys(FIGURES, 1.0)
    assert course(*[(perfect, 5.0 - epoch) for epoch in range(5)]) == [0] * 5
    actions = perfect | {"auc": 0.7, "normalized_entropy": 0.9}
    assert sum(course(*[(actions, 5.0 - epoch) for epoch in range(5)])) == 1


@pytest.fixture
def frozen(monkeypatch):
    """A search that goes on seeing the weights of the first validation."""
    first = {}

    def stale(model: Recommender, evaluation, **settings):
        now = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
        model.backbone.load_state_dict(first or now)
        first.update(first or now)
        found = evaluate(model, evaluation, **settings)
        model.backbone.load_state_dict(now)
        return found

    monkeypatch.setattr(validation, "evaluate", stale)


def run(out=None, show_progress=False, **settings):
    settings = {"epochs": 6, "learning_rate": 0.002, "schedule": "constant"} | settings
    return train(toy_recipe(**settings), toy_data(), seed=3, out=out, device="cpu", show_progress=show_progress)


def test_a_search_that_does_not_see_the_weights_is_said_aloud(frozen, capsys):
    with pytest.warns(StillValidationWarning) as caught:
        run(show_progress=True)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith("train: the validation figures must move while the loss falls, got recall@5 0.")
    assert "the search may not see the weights as they are now" in text
    assert capsys.readouterr().err.count("warning: train: the validation figures must move") == 1


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("epochs", [2, 3, 5])
def test_it_is_said_once_however_often_the_training_is_resumed(tmp_path, monkeypatch, epochs):
    """Stopped before, at and after the validation that shows it: the figures before count, what was said stays said."""
    evaluated, check = [], loop._Training._evaluate

    def interrupted(self):
        check(self)
        evaluated.append(self.progress.step)
        if len(evaluated) == epochs:
            self.stop.asked = True

    monkeypatch.setattr(loop._Training, "_evaluate", interrupted)
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StillValidationWarning)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
        said.append(len(caught))
        run(tmp_path)
    assert len(evaluated) >= 6
    assert (said, len(caught)) == ([int(epochs >= 3)], 1)
    assert load_checkpoint(tmp_path / "checkpoint.safetensors").progress.said_still


def test_a_training_that_learns_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path)
    progress = load_checkpoint(tmp_path / "checkpoint.safetensors").progress
    assert (progress.said_still, progress.validated_count) == (False, 0)
    assert progress.validated.keys() == FIGURES.keys()


def test_a_checkpoint_from_before_goes_on(tmp_path, monkeypatch):
    """One that was written when nothing was kept of earlier validations."""
    whole, path = run(tmp_path / "whole"), tmp_path / "old" / "checkpoint.safetensors"
    save = loop.save_checkpoint

    def until_24(path, progress, *parts):
        save(path, progress, *parts)
        if progress.step == 24:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", until_24)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "old")
    monkeypatch.undo()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    progress, tensors = json.loads(metadata["progress"]), load_file(path)
    new = {"validated", "validated_loss", "validated_sum", "validated_count", "still", "said_still"}
    assert new <= progress.keys()
    metadata["progress"] = json.dumps({name: value for name, value in progress.items() if name not in new})
    del metadata["checksum"]
    save_file(tensors, path, metadata | {"checksum": checksum(metadata, tensors)})
    assert load_checkpoint(path).progress.step == 24
    resumed = run(tmp_path / "old").backbone.state_dict()
    for name, tensor in whole.backbone.state_dict().items():
        assert torch.equal(tensor, resumed[name])

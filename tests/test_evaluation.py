from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from genrec_fast import metrics
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data import evaluation_batches, leave_one_out
from genrec_fast.data.synthetic import Shop
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.evaluation import Evaluated, evaluate
from genrec_fast.layouts import InterleaveConfig
from genrec_fast.recipes import hstu_ranking
from genrec_fast.training import train
from toy import toy_data, toy_recipe


@pytest.fixture(scope="module")
def model():
    return train(toy_recipe(epochs=2), toy_data(), device="cpu", show_progress=False)


@pytest.fixture(scope="module")
def test_questions():
    return leave_one_out(toy_data().interactions).test


def test_it_agrees_with_recommend_and_the_metrics(model, test_questions):
    found = evaluate(model, test_questions, ks=(1, 5, 10), users_per_batch=7)
    items = model.recommend(test_questions.histories, 10).items
    for k in (1, 5, 10):
        assert found.recall[k] == metrics.recall(items, test_questions.targets, k)
        assert found.ndcg[k] == pytest.approx(metrics.ndcg(items, test_questions.targets, k))
    assert (found.invalid_rate, found.exact, found.num_users) == (0.0, 1.0, 120)
    assert found.users_per_second > 0


def test_slots_without_an_item_are_counted(test_questions, model, monkeypatch):
    original = model.search

    def half(batch, query):
        ranked = original(batch, query)
        ranked.items[:, query.k // 2 :] = -1
        return ranked

    monkeypatch.setattr(model, "search", half)
    assert evaluate(model, test_questions).invalid_rate == 0.5


def test_it_prints_as_a_table_and_as_json():
    result = Evaluated(
        recall={5: 0.25, 10: 0.5}, ndcg={5: 0.125, 10: 0.2}, invalid_rate=0.0, exact=0.75, users_per_second=1234.5,
        num_users=22363,
    )  # fmt: skip
    assert str(result).splitlines() == [
        "recall@5    0.2500",
        "recall@10   0.5000",
        "ndcg@5      0.1250",
        "ndcg@10     0.2000",
        "invalid     0.0000",
        "exact       0.7500",
        "users       22,363",
        "users/s    1,234.5",
    ]
    assert json.loads(json.dumps(result.to_dict()))["recall"] == {"5": 0.25, "10": 0.5}


def test_no_question_or_no_k_is_an_error(model, test_questions):
    with pytest.raises(InvalidValueError, match=r"^evaluate: evaluation must have at least one user, got none"):
        evaluate(model, test_questions.head(0))
    with pytest.raises(InvalidValueError, match=r"^evaluate: ks must be numbers from 1, got \(0, 5\)"):
        evaluate(model, test_questions, ks=(0, 5))


def test_gradients_are_on_again_afterwards(model, test_questions):
    evaluate(model, test_questions)
    assert torch.is_grad_enabled()


def ranked_shop(**layout):
    """A ranking model of few passes, with features where the layout hands them on; and its data."""
    data = Shop(80).dataset(50)
    events = data.interactions
    rated = torch.stack([events.items.values % 2 == 0, events.items.values % 3 == 0], 1)
    events = dataclasses.replace(events, actions=rated, action_names=("rating>=4", "rating>=5"))
    recipe = hstu_ranking()
    parts = {"train": dataclasses.replace(recipe.train, epochs=1), "layout": InterleaveConfig(**layout)}
    if layout.get("use_features"):
        parts["decoder"] = RetrieveConfig()
    data = dataclasses.replace(data, interactions=events)
    model = train(dataclasses.replace(recipe, **parts), data, device="cpu", show_progress=False)
    return model, leave_one_out(events).test


@pytest.mark.parametrize("layout", [{}, {"num_candidates": 2}, {"use_features": True}, {"actions": "none"}], ids=str)
def test_actions_are_asked_of_the_stream_that_was_searched(monkeypatch, layout):
    """One pass through the layout for each batch, and the bits of a pass with the targets in it."""
    model, test = ranked_shop(**layout)
    logits, labels = [], []
    with model.answering():
        for batch in evaluation_batches(test, max_items=50, users_per_batch=16, bucketed=True):
            asked = model.layout(batch)
            logits.append(model.backbone.action_logits(asked))
            labels.append(asked.tokens.labels)
    logits, labels = torch.cat(logits), torch.cat(labels)
    calls, forward = [], type(model.layout).forward
    monkeypatch.setattr(type(model.layout), "forward", lambda self, batch: calls.append(1) or forward(self, batch))
    found = evaluate(model, test, users_per_batch=16)
    assert len(calls) == math.ceil(len(test) / 16)
    for action, name in enumerate(("rating>=4", "rating>=5")):
        assert found.auc[name] == metrics.auc(logits[:, action], labels[:, action])
        assert found.normalized_entropy[name] == metrics.normalized_entropy(logits[:, action], labels[:, action])


def test_a_model_of_actions_needs_them():
    model, test = ranked_shop()
    with pytest.raises(InvalidValueError, match=r"^evaluate: evaluation must have actions for a model of actions, got"):
        evaluate(model, dataclasses.replace(test, target_actions=None))

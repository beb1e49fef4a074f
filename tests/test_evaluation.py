from __future__ import annotations

import json

import pytest
import torch

from genrec_fast import metrics
from genrec_fast.data import leave_one_out
from genrec_fast.errors import InvalidValueError
from genrec_fast.evaluation import Evaluated, evaluate
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

    def half(batch, k, **options):
        ranked = original(batch, k, **options)
        ranked.items[:, k // 2 :] = -1
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

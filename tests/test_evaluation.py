from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from genrec_fast import metrics, recipes
from genrec_fast.base.batch import Ranked
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data import evaluation_batches, leave_one_out
from genrec_fast.data.synthetic import Shop
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.evaluation import Evaluated, Line, evaluate
from genrec_fast.evaluation.places import Places, first_items, places_among, places_in
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


def in_every_order(above, tied, metric, k):
    """The mean of a metric over all places that a target among equals may take."""
    places = [metric(place) if place < k else 0.0 for place in range(above, above + tied + 1)]
    return sum(places) / len(places)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_a_target_among_equals_gets_the_mean_over_its_places(k):
    cases = [(above, tied) for above in range(12) for tied in range(12)]
    places = Places(*(torch.tensor(column) for column in zip(*cases, strict=True)))
    for found, metric in (
        (places.recall(k), lambda place: 1.0),
        (places.ndcg(k), lambda place: 1 / math.log2(place + 2)),
        (places.mrr(k), lambda place: 1 / (place + 1)),
    ):
        wanted = [in_every_order(above, tied, metric, k) for above, tied in cases]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_places_among_all_scores():
    scores = torch.tensor([[3.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, -torch.inf, 2.0, 3.0]])
    places = places_among(scores, torch.tensor([1, 2, 1]))
    assert places.tied.tolist() == [1, 3, 0]
    assert places.above[:2].tolist() == [2, 0]
    assert places.recall(4).tolist() == [1.0, 1.0, 0.0]  # what was left out has no place


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_lists_that_end_within_a_tie_are_asked_for_more(k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (200, 10), generator=generator).float()
    scores[:20] = 1.0
    targets = torch.randint(0, 10, (200,), generator=generator)

    def ask(users, width):
        best, items = scores[users].sort(dim=1, descending=True, stable=True)
        count = len(users)
        return Ranked(items[:, :width], items[:, :width, None], best[:, :width], torch.ones(count), torch.ones(count))

    found = places_in(ask(torch.arange(200), k + 1), targets, k, ask, 10)
    wanted = places_among(scores, targets)
    for name in ("recall", "ndcg", "mrr"):
        assert torch.equal(getattr(found, name)(k), getattr(wanted, name)(k))


def test_the_first_items_of_tied_scores_are_those_of_the_lower_ids():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(-2, 3, (50, 40), generator=generator).float() * 0.7
    scores[3, 2], scores[4] = -0.0, -torch.inf
    best, wanted = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(first_items(scores, 7), wanted.masked_fill(best == -torch.inf, -1)[:, :7])


def lines_of(found, name, targets="all"):
    return {line.seen: line for line in found.lines if (line.name, line.targets) == (name, targets)}


def test_model_and_baselines_with_seen_items_kept_and_removed(model, test_questions):
    splits = leave_one_out(toy_data().interactions)
    plain = evaluate(model, test_questions, ks=(1, 5))
    found = evaluate(model, test_questions, ks=(1, 5), train=splits.train, seen="both")
    for name in ("ndcg", "recall", "mrr", "coverage", "novelty", "exact", "invalid_rate"):
        assert getattr(found, name) == getattr(plain, name)
    assert plain.lines == ()
    own = lines_of(found, "toy")
    assert (own["kept"].recall, own["kept"].ndcg, own["kept"].coverage) == (plain.recall, plain.ndcg, plain.coverage)
    unseen = model.recommend(test_questions.histories, 5, exclude_seen=True).items
    assert own["removed"].recall[5] == metrics.recall(unseen, test_questions.targets, 5)
    assert own["removed"].mrr[5] == pytest.approx(metrics.mrr(unseen, test_questions.targets, 5))
    assert own["removed"].coverage[5] == metrics.coverage(unseen, 30)
    assert own["removed"].novelty[5] == pytest.approx(metrics.novelty(unseen, model.catalog.counts))
    graph = train(recipes.transitions(), toy_data(), device="cpu", show_progress=False)
    itself = evaluate(graph, test_questions, ks=(1, 5), seen="removed").lines[0]
    baseline = lines_of(found, "transition graph")["removed"]
    assert (itself.recall, itself.ndcg) == (baseline.recall, baseline.ndcg)
    assert list(dict.fromkeys(line.name for line in found.lines)) == ["toy", "popularity", "transition graph"]
    assert found.hit_rate == found.recall == found.to_dict()["hit_rate"]


def test_features_have_lines_of_their_own(model, test_questions):
    data = Shop(80).dataset(60)
    splits = leave_one_out(data.interactions)
    graph = train(recipes.transitions(), data, device="cpu", show_progress=False)
    found = evaluate(graph, splits.test, train=splits.train)
    assert [line.name for line in found.lines if line.targets == "all"] == [
        "transitions", "popularity", "transition graph", "graph + features", "features of the last item",
    ]  # fmt: skip


def test_the_popular_items_are_the_ones_bought_most(model, test_questions):
    train_split = leave_one_out(toy_data().interactions).train
    line = lines_of(evaluate(model, test_questions, ks=(3, 30), train=train_split), "popularity")["kept"]
    counts = torch.bincount(train_split.items.values, minlength=30)
    wanted = [
        in_every_order(int((counts > counts[t]).sum()), int((counts == counts[t]).sum()) - 1, lambda place: 1.0, 3)
        for t in test_questions.targets.tolist()
    ]
    assert line.recall[3] == pytest.approx(sum(wanted) / len(wanted))
    assert line.recall[30] == line.coverage[30] == 1.0


def test_a_model_that_knows_nothing_is_worth_chance(model, test_questions, monkeypatch):
    """Equal scores for all: by the order of the items it would look perfect on some data, and useless on other."""
    original = model.search

    def constant(question, query):
        ranked = original(question, query)
        items = torch.arange(ranked.items.shape[1]).repeat(len(ranked.items), 1)
        return dataclasses.replace(ranked, items=items, scores=torch.zeros_like(ranked.scores))

    monkeypatch.setattr(model, "search", constant)
    found = evaluate(model, test_questions, ks=(3,), train=leave_one_out(toy_data().interactions).train)
    assert lines_of(found, "toy")["kept"].recall[3] == pytest.approx(3 / 30)


def test_known_and_new_targets_apart(model):
    splits = leave_one_out(toy_data().interactions)
    hidden = int(splits.test.targets[0])
    kept = splits.train.items.values != hidden  # a shop whose training has never seen that item
    lengths = torch.zeros(120, dtype=torch.int64).index_add_(0, splits.train.items.row_index(), kept.long())
    items = Jagged.from_lengths(splits.train.items.values[kept], lengths)
    found = evaluate(model, splits.test, train=dataclasses.replace(splits.train, items=items))
    own = {line.targets: line for line in found.lines if line.name == "toy"}
    new = splits.test.targets == hidden
    assert (own["new"].num_users, own["known"].num_users) == (int(new.sum()), int((~new).sum()))
    share = float(new.double().mean())
    joined = share * own["new"].recall[10] + (1 - share) * own["known"].recall[10]
    assert own["all"].recall[10] == pytest.approx(joined)
    assert lines_of(found, "popularity", "new")["kept"].recall[10] == 0.0


def test_the_table_fits_a_terminal_whatever_the_ks():
    ks = (1, 5, 10, 20, 50, 100, 1000)
    values = dict.fromkeys(ks, 0.1)
    lines = [
        Line(
            name=name, seen=seen, targets=targets, num_users=1_234_567, recall=values, ndcg=values, mrr=values,
            coverage=values if targets == "all" else {}, novelty=dict.fromkeys(ks, 12.5) if targets == "all" else {},
        )
        for name in ("a recipe with a name of far too many letters", "popularity")
        for seen in ("kept", "removed")
        for targets in ("all", "known", "new")
    ]  # fmt: skip
    found = Evaluated(
        recall=values, ndcg=values, invalid_rate=0.0, exact=1.0, users_per_second=1.0, num_users=3, lines=tuple(lines)
    )
    text = str(found).splitlines()
    assert max(map(len, text)) <= 100
    for k in ks:  # for each of five figures, seen items kept and removed
        assert sum(line.split().count(f"@{k}") for line in text) == 2 * 5
    assert text[-1].split() == ["users/s", "1.0"]


def test_only_some_items_may_be_answered_with(model, test_questions):
    data = toy_data()
    train_split, mask = leave_one_out(data.interactions).train, torch.arange(30) % 3 == 0
    found = evaluate(model, test_questions, ks=(1, 5), train=train_split, seen="both", allowed=mask)
    names = {data.interactions.item_ids[item] for item in range(0, 30, 3)}
    again = evaluate(model, test_questions, ks=(1, 5), train=train_split, seen="both", allowed=names)
    assert {**found.to_dict(), "users_per_second": 0} == {**again.to_dict(), "users_per_second": 0}
    best = model.recommend(test_questions.histories, 5, allowed=mask).items
    assert found.recall[5] == metrics.recall(best, test_questions.targets, 5)
    assert found.coverage[5] == 10 / 30
    for line in found.lines:
        assert line.coverage[5] <= 10 / 30, line.name
    with pytest.raises(InvalidValueError, match=r"evaluate: allowed must be items for everybody or bool \[30\]"):
        evaluate(model, test_questions, allowed=mask[None])
    with pytest.raises(InvalidValueError, match="evaluate: each item of allowed must be one of the catalog's 30 names"):
        evaluate(model, test_questions, allowed=["nothing"])


def test_arguments_of_a_comparison_are_checked(model, test_questions):
    with pytest.raises(InvalidValueError, match=r"^evaluate: seen must be 'kept', 'removed' or 'both', got 'no'"):
        evaluate(model, test_questions, seen="no")
    other = leave_one_out(toy_data(items=20).interactions).train
    with pytest.raises(InvalidValueError, match=r"^evaluate: train must have the model's 30 items, got 20"):
        evaluate(model, test_questions, train=other)


@pytest.mark.parametrize(
    "ks", [5, np.int64(5), [5], range(5, 6), {5}, np.array([5]), torch.tensor([5]), torch.tensor(5)]
)
def test_ks_are_one_whole_number_or_several_in_any_form(model, test_questions, ks):
    expected = evaluate(model, test_questions, ks=(5,))
    found = evaluate(model, test_questions, ks=ks)
    assert {**found.to_dict(), "users_per_second": 0} == {**expected.to_dict(), "users_per_second": 0}


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"ks": None}, InvalidTypeError, "ks must be a sequence of ints, got None"),
        ({"ks": "5"}, InvalidTypeError, "ks must be a sequence of ints, got '5'"),
        ({"ks": (5.0,)}, InvalidTypeError, "ks must be an int, got 5.0"),
        ({"ks": np.array([1.0, 5.0])}, InvalidTypeError, "ks must be an int, got"),
        ({"ks": (True,)}, InvalidTypeError, "ks must be an int, got True"),
        ({"ks": True}, InvalidTypeError, "ks must be an int, got True"),
        ({"ks": ()}, InvalidValueError, r"ks must be numbers from 1, got \(\)"),
        ({"ks": 0}, InvalidValueError, "ks must be at least 1, got 0"),
        ({"ks": (1 << 40,)}, InvalidValueError, "ks must be at most"),
        ({"num_beams": "a"}, InvalidTypeError, "num_beams must be an int, got 'a'"),
        ({"num_beams": 0}, InvalidValueError, "num_beams must be at least 1, got 0"),
        ({"users_per_batch": 0}, InvalidValueError, "users_per_batch must be at least 1, got 0"),
        ({"users_per_batch": None}, InvalidTypeError, "users_per_batch must be an int, got None"),
        ({"train": 5}, InvalidTypeError, "train must be Interactions .*, got 5"),
        ({"evaluation": None}, InvalidTypeError, "evaluation must be an Evaluation .*, got None"),
        ({"model": "folder"}, InvalidTypeError, "model must be a Recommender .*, got 'folder'"),
        (
            {"evaluation": leave_one_out(toy_data(items=50).interactions).test},
            InvalidValueError,
            "evaluation must hold items of the model's 30, but its histories hold 0 to",
        ),
    ],
)
def test_each_argument_is_checked_and_named(model, test_questions, given, error, text):
    with pytest.raises(error, match=f"^evaluate: {text}"):
        evaluate(**{"model": model, "evaluation": test_questions, **given})


def test_no_list_is_longer_than_the_catalog(model, test_questions):
    every = evaluate(model, test_questions, ks=(model.num_items,))
    beyond = evaluate(model, test_questions, ks=(5, 10**8))
    assert beyond.recall[10**8] == every.recall[model.num_items]
    assert beyond.recall[5] == evaluate(model, test_questions, ks=(5,)).recall[5]
    with pytest.raises(InvalidValueError, match="recommend: k must be at most 10000, got 100000000"):
        model.recommend(test_questions.histories, 10**8)

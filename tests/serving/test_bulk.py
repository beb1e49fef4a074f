from __future__ import annotations

import itertools
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.serving.bulk import WINDOW_BATCHES, Window
from genrec_fast.serving.http_body import answer_of
from toy import toy_data, toy_recipe


@pytest.fixture(scope="module")
def model():
    return gf.train(toy_recipe(epochs=1), toy_data(), show_progress=False)


def alone(model, history, k=10, **options):
    """What ``recommend`` says about one user, as an answer."""
    return answer_of(model.recommend([history], k, **options), model)[0]


def same(found, expected):
    assert [item["id"] for item in found["items"]] == [item["id"] for item in expected["items"]]
    for mine, theirs in zip(found["items"], expected["items"], strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], rel=1e-5)
        assert (mine["item"], mine["title"]) == (theirs["item"], theirs["title"])


def spied(monkeypatch, model):
    """The histories of every search that is asked for from now on."""
    searched, recommend = [], type(model).recommend

    def noted(self, histories, *args, **options):
        searched.append(histories)
        return recommend(self, histories, *args, **options)

    monkeypatch.setattr(type(model), "recommend", noted)
    return searched


def histories(count, num_items=30, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, num_items, generator.integers(1, 14)).tolist() for _ in range(count)]


def test_answers_come_in_order_and_are_those_of_recommend(model):
    asked = histories(150)
    answers = list(gf.recommend_many(model, iter(asked), 5, users_per_batch=4, exclude_seen=True))
    assert len(answers) == 150
    for history, answer in zip(asked, answers, strict=True):
        same(answer, alone(model, history, 5, exclude_seen=True))


def test_rows_may_be_tensors_arrays_or_tuples(model):
    rows = [torch.tensor([3, 4]), np.array([3, 4], dtype=np.int32), (3, 4), [3, 4]]
    found = list(gf.recommend_many(model, rows, 3))
    assert len(found) == len(rows)
    for answer in found:
        same(answer, alone(model, [3, 4], 3))


def test_no_more_is_read_ahead_than_a_window(model):
    read = 0

    def endless():
        nonlocal read
        for read in itertools.count(1):
            yield [read % 30]

    answers = gf.recommend_many(model, endless(), 3, users_per_batch=2)
    assert read == 0
    for _ in range(100):
        next(answers)
    assert 100 <= read <= 100 + 2 * WINDOW_BATCHES


def test_each_line_may_ask_in_its_own_way(model):
    lines = [
        {"id": "a", "history": ["thing 3", "thing 9"]},
        {"id": 7, "history": ["thing 3"], "k": 2},
        {"history_ids": [3, 4], "exclude": ["thing 5", "thing 6"], "user": 4},
        {"history_ids": [3, 4], "exclude_ids": [5]},
        {"history_ids": [3], "allowed_ids": [1, 2]},
        {"history": ["thing 3"], "allowed": ["thing 2"], "exclude_seen": None},
        {"history_ids": [3, 4], "exclude_seen": True, "k": 30},
    ]
    found = list(gf.recommend_many(model, lines, 4))
    mask = torch.zeros(30, dtype=torch.bool)
    expected = [
        alone(model, [3, 9], 4),
        alone(model, [3], 2),
        alone(model, [3, 4], 4, exclude=Jagged.from_rows([[5, 6]])),
        alone(model, [3, 4], 4, exclude=Jagged.from_rows([[5]])),
        alone(model, [3], 4, allowed=mask.index_fill(0, torch.tensor([1, 2]), True)),
        alone(model, [3], 4, allowed=mask.index_fill(0, torch.tensor([2]), True)),
        alone(model, [3, 4], 30, exclude_seen=True),
    ]
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs)
    assert [answer.get("id") for answer in found] == ["a", 7, *[None] * 5]
    assert [answer.get("user") for answer in found] == [None, None, 4, *[None] * 4]


def test_numbers_arrays_and_sets_are_read_as_what_they_hold(model):
    plain = {"id": 5, "history_ids": [3, 4], "allowed_ids": [5, 6, 7], "exclude_ids": [6], "k": 2, "seed": 1}
    arrays = {
        "id": np.int64(5),
        "history_ids": np.array([3, 4], np.int32),
        "allowed_ids": {7, 6, 5},
        "exclude_ids": (np.int64(6),),
        "k": np.int64(2),
        "seed": torch.tensor(1),
    }
    tensors = {
        **plain,
        "history_ids": [np.int64(3), 4],
        "allowed_ids": torch.tensor([5, 6, 7]),
        "exclude_seen": np.True_,
    }
    floats = {**plain, "id": 5.0, "history_ids": [3.0, 4], "allowed_ids": [5, 6.0, 7], "exclude_ids": [6.0]}
    answers = list(gf.recommend_many(model, [plain, arrays, tensors, floats], 3))
    assert sorted(item["id"] for item in answers[0]["items"]) == [5, 7]
    for answer in answers:
        same(answer, answers[0])
        assert (answer["id"], type(answer["id"])) == (5, int)
    (answer,) = gf.recommend_many(model, [[3, 4]], np.int64(2), allowed_ids={5, 6, 7}, exclude_ids=np.array([6]))
    same(answer, answers[0])


def test_a_line_speaks_for_itself_alone(model):
    """As many lists as lines of one kind: nobody gets another's."""
    nested = [["thing 5", "thing 6"], ["thing 7"]]
    lines = [{"history_ids": [3], "allowed": nested}, {"history_ids": [3, 4], "allowed": nested}]
    assert ["error" in answer for answer in gf.recommend_many(model, lines, 3, strict=False)] == [True, True]


WRONG = [
    ("thing 3", 'each line must be an object such as {"history": ["item17"]}'),
    ({"history": ["thing 99"]}, "each item of histories must be one of the catalog's 30 names"),
    ({"history_ids": [30]}, "history_ids must hold item ids in [0, 30), got 30"),
    ({"history_ids": [1], "k": 0}, "k must be at least 1, got 0"),
    ({"history_ids": [1], "k": "five"}, "k must be an int, got 'five'"),
    ({"history_ids": [1], "histories": [[1]]}, "fields of a line must be of id, history, "),
    ({"items": [1]}, "fields of a line must be of id, history, "),
    ({"id": "x"}, "history must be given (or history_ids), got none"),
    ({"id": [1], "history_ids": [1]}, "id must be a text or a whole number"),
    ({"user": -1, "history_ids": [1]}, "got -1"),
    ({"history_ids": [1], "exclude": "thing 2"}, "exclude must be a list, got 'thing 2'"),
    ({"history_ids": [1, 2], "times": [1]}, "timestamps must have rows as long as the histories'"),
    ({"history_ids": [1, 2], "times": [5, 1]}, "timestamps must not decrease"),
    ({"history_ids": [1], "allowed": [["thing 2"], ["thing 3"]]}, "allowed must be a list of items, as a line is one"),
    ({"history_ids": [1], "allowed_ids": [[2]]}, "allowed_ids must be a list of items, as a line is one user's"),
    ({"history_ids": [1], "exclude_ids": [[2]]}, "exclude_ids must be a list of items, as a line is one user's"),
    ({"history_ids": [1], "allowed": "thing 2"}, "allowed must be a list, got 'thing 2'"),
    (
        {"history_ids": [1], "k": Decimal(2)},
        "k must be of texts, numbers, true or false, or lists of them, got Decimal",
    ),
    ({"history_ids": [1], "allowed": [b"4"]}, "allowed must be of texts, numbers, true or false, or lists of them"),
    ({"history_ids": [1], "seed": timedelta(1)}, "seed must be of texts, numbers, true or false, or lists of them"),
    ({"history_ids": {1, 2}}, "history_ids must be of texts, numbers, true or false, or lists of them, got {1, 2}"),
    ({"history_ids": [1], "num_beams": {"a": 1}}, "num_beams must be of texts, numbers, true or false, or lists"),
    ({"history_ids": [1], "seed": [[[[[1]]]]]}, "seed must be of texts, numbers, true or false, or lists of them"),
    ({"history_ids": [1], "k": 10**5000}, "numbers must be below 2^63, got one of thousands of digits in k"),
    ({"history_ids": [1], "allowed_ids": np.ones(30, bool)}, "allowed_ids must hold whole numbers, got True"),
    ({"history_ids": [1], "actions": ["1"]}, "actions must not be given as toy reads none"),
]


@pytest.mark.parametrize(("line", "text"), WRONG)
def test_a_wrong_line_is_its_own_error(model, line, text):
    good = [{"history_ids": row} for row in histories(12)]
    lines = [*good[:5], line, *good[5:]]
    found = list(gf.recommend_many(model, lines, 3, users_per_batch=4, strict=False))
    assert found[5]["line"] == 6
    assert text in found[5]["error"]
    assert "items" not in found[5]
    for question, answer in zip(good, found[:5] + found[6:], strict=True):
        same(answer, alone(model, question["history_ids"], 3))

    answers = gf.recommend_many(model, lines, 3, users_per_batch=4)
    for _ in range(5):
        next(answers)
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^line 6: recommend: ") as raised:
        next(answers)
    assert text in str(raised.value)


def test_a_name_is_repeated_and_is_no_row_of_the_data(model, monkeypatch):
    (found,) = gf.recommend_many(model, [{"user": "Ann", "history_ids": [1]}], 3)
    assert found == {"user": "Ann", **next(gf.recommend_many(model, [[1]], 3))}
    monkeypatch.setattr(model, "reads_users", True)
    with pytest.raises(InvalidTypeError, match="line 1: recommend: user must be a row of the training data"):
        next(gf.recommend_many(model, [{"user": "Ann", "history_ids": [1]}], 3))


def test_who_reads_users_says_so(model):
    catalog = gf.Catalog(item_codes=torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    assert gf.Recommender(gf.recipes.tiger(), catalog).reads_users
    assert not model.reads_users


def test_a_line_that_says_ids_takes_no_default_of_names(model):
    lines = [{"history_ids": [3], "exclude_ids": [5]}, {"history_ids": [3]}]
    found = list(gf.recommend_many(model, lines, 30, exclude=["thing 6"], allowed=["thing 5", "thing 6", "thing 7"]))
    assert [sorted(item["id"] for item in answer["items"]) for answer in found] == [[6, 7], [5, 7]]


def test_many_wrong_lines_cost_no_search_each(model, monkeypatch):
    searched = spied(monkeypatch, model)
    lines = [[3], [99], [4, 5], [-1], [6], [True]]
    found = list(gf.recommend_many(model, lines, 3, strict=False, users_per_batch=8))
    assert ["error" in answer for answer in found] == [False, True, False, True, False, True]
    assert [len(rows) for rows in searched] == [3]


def test_a_search_that_refuses_a_line_answers_the_others(model, monkeypatch):
    """What only the search itself can tell: it is asked for each line alone."""
    recommend = type(model).recommend

    def picky(self, histories, *args, **options):
        if [7] in histories:
            raise InvalidValueError("recommend: 7 must not be asked")
        return recommend(self, histories, *args, **options)

    monkeypatch.setattr(type(model), "recommend", picky)
    found = list(gf.recommend_many(model, [[3], [7], [4]], 3, strict=False))
    assert found[1] == {"line": 2, "error": "recommend: 7 must not be asked"}
    assert len(found[0]["items"]) == len(found[2]["items"]) == 3


def test_what_the_caller_says_wrong_is_said_at_once(model):
    with pytest.raises(InvalidValueError, match=r"fields of a line must be of .* got 'num_beam'"):
        gf.recommend_many(model, [[1]], 3, num_beam=2)
    with pytest.raises(InvalidValueError, match="each item of allowed must be one of"):
        gf.recommend_many(model, [[1]], 3, allowed=["nothing"])
    with pytest.raises(InvalidValueError, match="k must be at least 1, got 0"):
        gf.recommend_many(model, [[1]], 0)
    catalog = gf.Catalog(item_codes=torch.tensor([[0, 1], [1, 0]]), codebook_sizes=(2, 2))
    with pytest.raises(InvalidValueError, match="num_beams must be at least k = 2, got 1"):
        gf.recommend_many(gf.Recommender(gf.recipes.tiger(), catalog), [[1]], 2, num_beams=1)
    with pytest.raises(InvalidValueError, match="users_per_batch must be at least 1, got 0"):
        gf.recommend_many(model, [[1]], 3, users_per_batch=0)


def test_histories_of_a_batch_are_of_one_length(model, monkeypatch):
    searched = spied(monkeypatch, model)
    list(gf.recommend_many(model, histories(8 * WINDOW_BATCHES), 3, users_per_batch=8))
    lengths = [min(len(row), model.max_items) for rows in searched for row in rows]
    assert len(searched) == WINDOW_BATCHES
    assert lengths == sorted(lengths)


def test_which_lines_share_a_search_depends_on_their_places(model):
    """A window that is gone on with has the batches that it would have had."""
    lines = list(enumerate(({"history_ids": row} for row in histories(64)), start=1))
    window = Window(model, {"k": 4}, 4)
    assert window.size == 4 * WINDOW_BATCHES
    whole = window(lines[:32]) + window(lines[32:])
    assert Window(model, {"k": 4}, 4)(lines[32:]) == whole[32:]

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import subprocess
import sys
import threading

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast import recipes
from genrec_fast.base.errors import ClosedError, InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.cli import main
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.http import ServeConfig, create_app
from genrec_fast.serving.http_body import FIELDS
from shared.served import ask, served, toy

TOKEN = "a word between us"


MODEL = toy()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    swaps = {"swap_token": TOKEN, "swap_folder": tmp_path_factory.mktemp("models")}
    app = create_app(MODEL, ServeConfig(max_body=5000, max_k=20, max_users=4, **swaps))
    app.state.models = swaps["swap_folder"]
    yield app
    app.state.server.close()


def test_names_and_ids_get_what_recommend_says(app):
    body = {"histories": [["thing 3", "thing 4"], ["thing 5"]], "k": 4, "exclude_seen": True}
    body |= {"exclude": [["thing 7"], []], "allowed": [f"thing {i}" for i in range(30)]}
    answer = ask(app, "POST", "/recommend", json=body)
    assert answer.status_code == 200
    by_ids = {"history_ids": [[3, 4], [5]], "k": 4, "exclude_seen": True}
    by_ids |= {"exclude_ids": [[7], []], "allowed_ids": list(range(30))}
    assert ask(app, "POST", "/recommend", json=by_ids).json() == answer.json()
    mask = torch.arange(60) < 30
    exclude = Jagged.from_rows([[7], []])
    expected = MODEL.recommend([[3, 4], [5]], 4, exclude_seen=True, exclude=exclude, allowed=mask)
    results = answer.json()["results"]
    assert [[found["id"] for found in row["items"]] for row in results] == expected.items.tolist()
    assert results[0]["items"][0]["item"] == f"thing {int(expected.items[0, 0])}"
    assert results[0]["items"][0]["title"] == f"Thing {int(expected.items[0, 0])}, \N{SNOWMAN}"
    assert results[0]["exact"] is True and results[0]["bound"] is None
    scores = torch.tensor([[found["score"] for found in row["items"]] for row in results])
    torch.testing.assert_close(scores, expected.scores)


def test_a_number_is_the_name_with_these_digits_and_never_an_id():
    """MovieLens' names are numbers, and 12 is not item number 12; one name that is no number changes nothing."""
    model = toy()
    model.catalog = dataclasses.replace(model.catalog, item_ids=[str(100 - i) for i in range(58)] + ["007", "tea"])
    app = create_app(model)

    def items(**body):
        answer = ask(app, "POST", "/recommend", json={"k": 60, **body})
        return [found["item"] for found in answer.json()["results"][0]["items"]] if answer.is_success else answer.json()

    for names in ([97, 100, 43], ["97", "100", "43"], ["97", 100, 43.0]):
        assert items(histories=[names]) == items(history_ids=[[3, 0.0, 57]])
        assert not {"97", "100", "43"} & set(items(histories=[names], exclude_seen=True))
        assert set(items(histories=[["tea"]], allowed=names)) == {"97", "100", "43"}
        assert not {"97", "100", "43"} & set(items(histories=[["tea"]], exclude=[names]))
    assert items(histories=[["007"]]) == items(history_ids=[[58]])
    for number in (12, 7, 0, -1, 30):  # no such names, though most are ids
        error = items(histories=[[number]])["error"]
        assert error.startswith(
            "recommend: each item of histories must be one of the catalog's 60 names (such as '100')"
        )
        assert error.endswith(f"got '{number}'; item ids have a field of their own, history_ids")
    app.state.server.close()


def test_actions_come_over_http():
    torch.manual_seed(0)
    recipe = recipes.get("hstu_ranking")
    codes = torch.arange(40, dtype=torch.int32)[:, None]
    names = [f"thing {i}" for i in range(40)]
    model = Recommender(recipe, Catalog(item_codes=codes, codebook_sizes=(40,), item_ids=names))
    with torch.no_grad():  # untrained, it hardly listens
        for weight in model.backbone.parameters():
            weight.mul_(5.0)
    app = create_app(model)
    body = {"history_ids": [[3, 4, 5], [6]], "k": 5, "timestamps": [[0, 50, 90], [20]], "target_timestamps": [99, 99]}
    marks = [[[True, True], [False, False], [True, False]], [[False, True]]]
    flat = torch.tensor([mark for row in marks for mark in row])
    times = {name: body[name] for name in ("timestamps", "target_timestamps")}
    expected = model.recommend(body["history_ids"], 5, actions=Jagged(flat, torch.tensor([0, 3, 4])), **times)
    other = model.recommend(body["history_ids"], 5, actions=Jagged(~flat, torch.tensor([0, 3, 4])), **times)
    assert not torch.allclose(expected.scores, other.scores)
    for actions in (marks, [[[1, 1], [0, 0], [1, 0]], [[0, 1]]], [["11", "00", "10"], ["01"]]):
        answer = ask(app, "POST", "/recommend", json=body | {"actions": actions})
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert [[found["id"] for found in row["items"]] for row in results] == expected.items.tolist()
        scores = torch.tensor([[found["score"] for found in row["items"]] for row in results])
        torch.testing.assert_close(scores, expected.scores)
    digits = "actions must be words of 2 digits 0 or 1 (rating>=4, rating>=5), got "
    for actions, text in (
        ("11", "actions must be a list, got '11'"),
        (["11"], "actions must be a list, got '11'"),
        ([["11", "00", "10"]], "actions must be a list for each of 2 histories, got 1"),
        ([["11", "00"], ["01"]], "actions must be one word per event, 3 of them, got 2"),
        ([["11", "00", "1"], ["01"]], digits + "'1'"),
        ([["11", "00", "12"], ["01"]], digits + "'12'"),
        ([["11", "00", [1, 2]], ["01"]], digits + "[1, 2]"),
        ([["11", "00", [1.0, 0]], ["01"]], digits + "[1.0, 0]"),
        ([["11", "00", ["10"]], ["01"]], digits + "['10']"),
        ([["11", "00", None], ["01"]], digits + "None"),
        ([["11", "00", [[], {}]], ["01"]], digits + "[[], {}]"),
        (None, "actions must be given as hstu_ranking reads them (rating>=4, rating>=5), got None"),
    ):
        answer = ask(app, "POST", "/recommend", json=body | {"actions": actions})
        assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text
    app.state.server.close()


def test_an_empty_allowed_list_leaves_nothing(app):
    answer = ask(app, "POST", "/recommend", json={"history_ids": [[1]], "k": 3, "allowed": []})
    assert answer.json()["results"] == [{"items": [], "exact": True, "bound": None, "basis": "history", "skipped": 0}]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "the body must be JSON"),
        (b"\xff", "the body must be JSON"),
        (b"", "the body must be JSON"),
        (b"[" * 4000, "the body must be JSON"),
        (b"[1]", "the body must be a JSON object, got list"),
        ({}, "histories must be given"),
        ({"histories": "thing 1"}, "histories must be a list, got 'thing 1'"),
        ({"histories": []}, "histories must have at least one row"),
        ({"histories": [[]]}, "histories must not be empty, but row 0 is: this model learned no start"),
        ({"histories": None}, "histories must be given (or history_ids), got none"),
        ({"histories": [["thing 60"]]}, "each item of histories must be one of the catalog's 60 names"),
        ({"histories": [["\ud800"]]}, "each item of histories must be one of the catalog's 60 names"),
        ({"histories": [[1]]}, "got '1'; item ids have a field of their own, history_ids"),
        ({"histories": [[-1]]}, "got '-1'; item ids have a field of their own, history_ids"),
        ({"histories": [[10**40]]}, "each item of histories must be one of the catalog's 60 names"),
        ({"histories": [[1.5]]}, "histories must hold names, texts or whole numbers, got 1.5"),
        ({"histories": [[True]]}, "histories must hold names, texts or whole numbers, got True"),
        (
            {"histories": [["thing 1"]], "history_ids": [[1]]},
            "histories must not be given beside history_ids, got both",
        ),
        ({"history_ids": 3}, "history_ids must be a list, got 3"),
        ({"history_ids": [[60]]}, r"history_ids must hold item ids in [0, 60), got 60"),
        ({"history_ids": [[-1]]}, "history_ids must hold whole numbers in [0, 2^63), got -1"),
        ({"history_ids": [["thing 1"]]}, "history_ids must hold whole numbers, got 'thing 1'"),
        ({"history_ids": [[True]]}, "history_ids must hold whole numbers, got True"),
        ({"history_ids": [[1]] * 5}, "history_ids must be at most 4, got 5"),
        ({"history_ids": [[1]], "allowed": [1]}, "got '1'; item ids have a field of their own, allowed_ids"),
        ({"history_ids": [[1]], "exclude": [[1]]}, "got '1'; item ids have a field of their own, exclude_ids"),
        ({"history_ids": [[1]], "allowed_ids": [-1]}, "allowed_ids must hold whole numbers in [0, 2^63), got -1"),
        ({"history_ids": [[1]], "exclude_ids": [[60]]}, r"exclude_ids must hold item ids in [0, 60), got 60"),
        ({"history_ids": [[1]], "exclude_ids": [[1], [2]]}, "exclude must have 1 rows, got 2"),
        ({"history_ids": [[1]], "actions": [["1"]]}, "actions must not be given as toy reads none"),
        ({"history_ids": [[1]], "timestamps": [[1.7e12]]}, "timestamps must be in seconds, got 1700000000000; divide"),
        ({"history_ids": [[1]], "k": 21}, "k must be at most 20, got 21"),
        ({"history_ids": [[1]], "k": 0}, "k must be at least 1, got 0"),
        ({"history_ids": [[1]], "k": "3"}, "k must be an int, got '3'"),
        ({"history_ids": [[1]], "num_beams": 10**9}, "num_beams must be at most 4096, got 1000000000"),
        ({"history_ids": [[1]], "num_beams": [10, 4097]}, "num_beams must be at most 4096, got 4097"),
        ({"history_ids": [[1]], "num_beams": []}, "num_beams must have a number for each level, got none"),
        ({"history_ids": [[1]], "num_beams": {"0": 3}}, "num_beams must be an int, got dict"),
        ({"history_ids": [[1]], "allowed": 3}, "allowed must be a list, got 3"),
        ({"history_ids": [[1]], "exact": 1}, "exact must be true or false, got 1"),
        ({"history_ids": [[1]], "timeout": 0}, "timeout must be above 0, got 0"),
        ({"history_ids": [[1]], "timestamps": [[float("nan")]]}, "timestamps must be of numbers below 2^62, got nan"),
        ({"history_ids": [[1]], "timestamps": [[1, 2]]}, "timestamps must have rows as long as the histories'"),
        ({"history_ids": [[1]], "colour": "red"}, "fields must be of histories, k, num_beams"),
    ],
)
def test_wrong_questions_get_a_message(app, body, text):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = ask(app, "POST", "/recommend", content=content)
    assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
FIELDS = st.sampled_from([*FIELDS])


@settings(max_examples=25)
@given(st.dictionaries(FIELDS, JSON), st.booleans())
def test_whatever_comes_is_answered_or_refused(app, body, asks):
    body = {"history_ids": [[1]], **body} if asks else body
    answer = ask(app, "POST", "/recommend", content=json.dumps(body).encode())
    assert answer.status_code in (200, 400), answer.text
    assert set(answer.json()) in ({"results", "version"}, {"error"})


def test_other_refusals(app):
    assert ask(app, "POST", "/recommend", content=b" " * 5001).status_code == 413
    for method, path, status in (("GET", "/recommend", 405), ("GET", "/nowhere", 404), ("GET", "/swap", 405)):
        answer = ask(app, method, path)
        assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_health_and_metrics():
    app = create_app(MODEL)
    for _ in range(3):
        ask(app, "POST", "/recommend", json={"history_ids": [[1], [2]], "k": 2})
    ask(app, "POST", "/recommend", json={})
    state = ask(app, "GET", "/health")
    expected = {"status": "ok", "recipe": "toy", "items": 60, "version": 0, "waiting": 0, "running": 0}
    assert (state.status_code, state.json()) == (200, expected)
    lines = ask(app, "GET", "/metrics").text.splitlines()
    for line in (
        'genrec_requests_total{status="200"} 3.0',
        'genrec_requests_total{status="400"} 1.0',
        "genrec_request_seconds_count 4.0",
        "genrec_batch_users_sum 6.0",
        "genrec_queue_users 0.0",
        "genrec_model_version 0.0",
    ):
        assert line in lines
    app.state.server.close()
    assert ask(app, "GET", "/health").status_code == 503
    assert ask(app, "POST", "/recommend", json={"history_ids": [[1]]}).status_code == 503
    with pytest.raises(ClosedError, match="the server must be running"):
        app.state.swap(MODEL)


def test_full_late_and_broken(monkeypatch):
    model = toy()
    app = create_app(model, ServeConfig(max_waiting=1))
    held, reached = threading.Event(), threading.Event()
    begin = model.decoder.begin

    def slow(system, batch, query):
        reached.set()
        assert held.wait(20)
        if int(batch.items.values[0]) == 13:
            raise IndexError("a secret of the inside")
        return begin(system, batch, query)

    monkeypatch.setattr(model.decoder, "begin", slow)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, app, "POST", "/recommend", json={"history_ids": [[13]]})
        assert reached.wait(20)
        answer = ask(app, "POST", "/recommend", json={"history_ids": [[1], [2]]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        late = pool.submit(ask, app, "POST", "/recommend", json={"history_ids": [[1]], "timeout": 0.01})
        while not app.state.server.live.batcher.counts.waiting:
            threading.Event().wait(0.005)
        threading.Event().wait(0.02)
        held.set()
        assert late.result(20).status_code == 504
        broken = first.result(20)
    assert (broken.status_code, broken.json()) == (500, {"error": "the model failed at this question"})
    app.state.server.close()


def test_a_model_is_swapped_while_questions_run():
    """Every answer is that of one model: the one that its version names."""
    models = [toy(60, seed=0), toy(40, seed=1), toy(50, seed=2)]
    expected = [[int(i) for i in model.recommend([[3, 1]], 5).items[0]] for model in models]
    assert len({tuple(items) for items in expected}) == 3
    app = create_app(models[0])
    with served(app) as (url, _), concurrent.futures.ThreadPoolExecutor(4) as pool:

        def ask_often(_):
            with httpx.Client() as client:
                return [client.post(f"{url}/recommend", json={"history_ids": [[3, 1]], "k": 5}) for _ in range(25)]

        running = [pool.submit(ask_often, number) for number in range(4)]
        for model in models[1:]:
            threading.Event().wait(0.05)
            app.state.swap(model)
        answers = [answer for future in running for answer in future.result(30)]
        assert httpx.get(f"{url}/health").json()["version"] == 2
    seen = set()
    for answer in answers:
        assert answer.status_code == 200
        seen.add(answer.json()["version"])
        assert [i["id"] for i in answer.json()["results"][0]["items"]] == expected[answer.json()["version"]]
    assert 2 in seen
    with pytest.raises(InvalidTypeError, match="swap: model must be a Recommender, got int"):
        app.state.swap(3)


def test_swap_over_http(app, tmp_path):
    for config in (ServeConfig(), ServeConfig(swap_token=TOKEN)):  # off unless a folder is given
        closed = create_app(MODEL, config)
        assert ask(closed, "POST", "/swap", json={}).status_code == 404
        closed.state.server.close()
    assert ask(app, "POST", "/swap", json={"folder": "x"}).status_code == 401
    headers = {"authorization": f"Bearer {TOKEN}"}
    models = app.state.models
    toy(33).save(models / "new")
    toy(34).save(tmp_path / "outside")
    (models / "link").symlink_to(tmp_path / "outside")
    (models / "empty").mkdir()
    for folder in (None, 3, "", "empty", "none", "\0", "x" * 999):
        answer = ask(app, "POST", "/swap", json={} if folder is None else {"folder": folder}, headers=headers)
        assert (answer.status_code, set(answer.json())) == (400, {"error"})
    for folder in (str(tmp_path / "outside"), "link", f"../{tmp_path.name}/outside", f"new/../../{tmp_path.name}", "/"):
        answer = ask(app, "POST", "/swap", json={"folder": folder}, headers=headers)
        assert (answer.status_code, "must lie inside the server's swap_folder" in answer.text) == (400, True)
    version = app.state.server.live.version
    for folder in ("new", str(models / "new"), "empty/../new"):
        version += 1
        answer = ask(app, "POST", "/swap", json={"folder": folder}, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"version": version})
        assert ask(app, "GET", "/health").json()["items"] == 33
        app.state.swap(MODEL)
        version += 1


def test_what_was_asked_before_the_end_is_answered(monkeypatch):
    model = toy()
    reached = threading.Event()
    held = threading.Event()
    begin = model.decoder.begin

    def slow(*arguments, **options):
        reached.set()
        assert held.wait(20)
        return begin(*arguments, **options)

    monkeypatch.setattr(model.decoder, "begin", slow)
    app = create_app(model)
    with concurrent.futures.ThreadPoolExecutor(2) as pool, served(app) as (url, server):
        asked = [pool.submit(httpx.post, f"{url}/recommend", json={"history_ids": [[1]]}, timeout=20) for _ in range(2)]
        assert reached.wait(20)
        while app.state.server.live.batcher.counts.waiting + app.state.server.live.batcher.counts.running < 2:
            threading.Event().wait(0.005)
        server.should_exit = True
        threading.Event().wait(0.05)
        held.set()
        assert [one.result(20).status_code for one in asked] == [200, 200]


def test_who_hangs_up_does_not_cost_a_search(monkeypatch):
    model = toy()
    reached, held = threading.Event(), threading.Event()
    begin = model.decoder.begin

    def slow(*arguments, **options):
        reached.set()
        assert held.wait(20)
        return begin(*arguments, **options)

    monkeypatch.setattr(model.decoder, "begin", slow)
    app = create_app(model)
    with served(app) as (url, _), concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{url}/recommend", json={"history_ids": [[1]]}, timeout=20)
        assert reached.wait(20)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/recommend", json={"history_ids": [[2]]}, timeout=httpx.Timeout(20, read=0.5))
        for _ in range(1000):
            if app.state.server.requests.labels("499")._value.get():
                break
            threading.Event().wait(0.01)
        held.set()
        assert first.result(20).status_code == 200
        assert httpx.get(f"{url}/health").json()["running"] == 0
        assert app.state.server.live.batcher.counts.searched == 1


def test_wrong_settings_and_what_is_missing(tmp_path, capsys):
    with pytest.raises(InvalidValueError, match="ServeConfig: max_body must be at least 1, got 0"):
        ServeConfig(max_body=0)
    with pytest.raises(InvalidValueError, match="ServeConfig: drain must be above 0 and finite, got nan"):
        ServeConfig(drain=float("nan"))
    toy().save(tmp_path)
    assert main(["serve", str(tmp_path), "--port", "70000"]) == 2
    assert "serve: --port must be in [0, 65535], got 70000" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "none")]) == 2
    code = "import sys; sys.modules['starlette.applications'] = None; import genrec_fast.serving.http"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UnsupportedError: serve: starlette, uvicorn and prometheus-client must be installed" in done.stderr

"""What is limited, and whose fault is whose."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time

import httpx
import pytest
import torch

from genrec_fast import recipes
from genrec_fast.backbones import T5Config
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.query import Limits, ask
from genrec_fast.decoders import BeamConfig
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.config import ServeConfig
from genrec_fast.serving.http import create_app
from shared.catalogs import coded
from shared.served import ask as ask_app
from shared.served import hold, served, toy, until

SIZES = (16, 16, 16)


@pytest.fixture(scope="module")
def tiger():
    """A model whose certificate fails with few beams: 500 items, hardly told apart."""
    torch.manual_seed(0)
    recipe = recipes.get("tiger")
    backbone = T5Config(width=16, num_heads=2, head_width=8, num_layers=1, hidden=32, num_user_tokens=4, max_items=6)
    batching = dataclasses.replace(recipe.batching, max_items=6)
    codes = torch.stack([torch.randint(0, size, (500,)) for size in SIZES], 1).int()
    recipe = dataclasses.replace(recipe, backbone=backbone, batching=batching, decoder=BeamConfig(num_beams=30))
    return Recommender(recipe, coded(codes, SIZES))


def test_exact_does_not_pass_the_width_limit(tiger):
    free = tiger.recommend([[3], [4]], 5, num_beams=5, exact=True)
    assert free.exact.all()
    narrow = {width: tiger.recommend([[3], [4]], 5, num_beams=width) for width in (10, 20)}
    assert not narrow[20].exact.any()  # so that more would have been tried
    for most, reached in ((20, 20), (12, 12), (5, 5), (3000, 500)):
        with tiger.batcher(limits=Limits(max_num_beams=most)) as batcher:
            for widths in (5, (5, 5, 5), torch.tensor([5, 5])):
                found = batcher.recommend([[3], [4]], 5, num_beams=widths, exact=True)
                expected = free if reached == 500 else tiger.recommend([[3], [4]], 5, num_beams=reached)
                assert torch.equal(found.items, expected.items) and torch.equal(found.exact, expected.exact)
                torch.testing.assert_close(found.bound, expected.bound)
    app = create_app(tiger, ServeConfig(max_num_beams=20))
    body = {"history_ids": [[3]], "k": 5, "num_beams": 5, "exact": True}
    answer = ask_app(app, "POST", "/recommend", json=body).json()["results"][0]
    assert [found["id"] for found in answer["items"]] == narrow[20].items[0].tolist()
    assert answer["exact"] is False
    levels = ask_app(app, "POST", "/recommend", json=body | {"num_beams": [5, 20, 10], "exact": False}).json()
    expected = tiger.recommend([[3]], 5, num_beams=(5, 20, 10))
    assert [found["id"] for found in levels["results"][0]["items"]] == expected.items[0].tolist()
    app.state.server.close()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"k": 11}, InvalidValueError, "k must be at most 10, got 11"),
        ({"num_beams": 21}, InvalidValueError, "num_beams must be at most 20, got 21"),
        ({"num_beams": (20, 20, 21)}, InvalidValueError, "num_beams must be at most 20, got 21"),
        ({"num_beams": torch.tensor([21])}, InvalidValueError, "num_beams must be at most 20, got 21"),
        ({"num_beams": ()}, InvalidValueError, "num_beams must have a number for each level, got none"),
        ({"num_beams": (20, 20.0, 20)}, InvalidTypeError, r"num_beams must be an int, got 20\.0"),
    ],
)
def test_limits_are_alike_on_every_road(tiger, options, error, text):
    limits = Limits(max_k=10, max_num_beams=20)
    k, rest = options.get("k", 5), {name: value for name, value in options.items() if name != "k"}
    with pytest.raises(error, match=f"^recommend: {text}"):
        ask(tiger, [[3]], k, rest, limits=limits)
    with tiger.batcher(limits=limits) as batcher:
        with pytest.raises(error, match=f"^recommend: {text}"):
            batcher.submit([[3]], k, **rest)
        assert batcher.recommend([[3]], 10, num_beams=20).items.shape == (1, 10)
    if "num_beams" in options and not isinstance(options["num_beams"], torch.Tensor):
        app = create_app(tiger, ServeConfig(max_k=10, max_num_beams=20))
        answer = ask_app(app, "POST", "/recommend", json={"history_ids": [[3]], "k": k, **rest})
        assert (answer.status_code, answer.json()["error"].startswith("recommend: num_beams must")) == (400, True)
        app.state.server.close()


def test_wrong_limits():
    with pytest.raises(InvalidValueError, match="Limits: max_k must be at least 1, got 0"):
        Limits(max_k=0)
    with pytest.raises(InvalidTypeError, match="Limits: max_num_beams must be an int, got None"):
        Limits(max_num_beams=None)


def test_widths_for_no_level_end_nobody_else_s_search(tiger):
    """What once ended the worker, and with it everybody's questions."""
    with tiger.batcher() as batcher:
        good = [batcher.submit([[item]], 5) for item in range(8)]
        with pytest.raises(InvalidValueError, match="num_beams must have a number for each level, got none"):
            batcher.submit([[3]], 5, num_beams=[])
        bad = batcher.submit([[3]], 5, num_beams=(5, 5))  # of three levels
        good += [batcher.submit([[item]], 5) for item in range(8)]
        with pytest.raises(InvalidValueError, match="num_beams must have 3 numbers, got 2"):
            bad.result(20)
        assert all(one.result(20).items.shape == (1, 5) for one in good)


def test_a_question_behind_a_long_one_is_told_in_time(monkeypatch):
    """The batcher looks at the time between two steps; a client does not wait for that."""
    model = toy()
    reached, held = hold(monkeypatch, model, only=13)
    config = ServeConfig(timeout=0.2)
    with served(create_app(model, config), config) as (url, _), concurrent.futures.ThreadPoolExecutor(1) as pool:
        long = pool.submit(httpx.post, f"{url}/recommend", json={"history_ids": [[13]]}, timeout=20)
        assert reached.wait(20)
        start = time.monotonic()
        assert httpx.post(f"{url}/recommend", json={"history_ids": [[1]]}, timeout=20).status_code == 504
        assert time.monotonic() - start < 3
        assert long.result(20).status_code == 504
        held.set()
        until(lambda: not httpx.get(f"{url}/health").json()["running"])
        assert httpx.post(f"{url}/recommend", json={"history_ids": [[1]]}, timeout=20).status_code in (200, 504)

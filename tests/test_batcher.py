from __future__ import annotations

import concurrent.futures
import dataclasses
import subprocess
import sys
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_fast import recipes
from genrec_fast.backbones import T5Config
from genrec_fast.base.errors import ClosedError, InvalidTypeError, InvalidValueError, QueueFullError, TimedOutError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders import BestFirstConfig, DiverseBeamConfig, GreedyConfig, StochasticBeamConfig
from genrec_fast.recipe.batcher import Batcher
from genrec_fast.recipe.recommender import Recommender
from toy import toy_recipe

ITEMS = 60
SIZES = (8, 8, 8)


def tiger(decoder=None):
    recipe = dataclasses.replace(
        recipes.get("tiger"),
        backbone=T5Config(width=16, num_heads=2, head_width=8, num_layers=1, hidden=32, num_user_tokens=4, max_items=6),
    )
    recipe = dataclasses.replace(recipe, batching=dataclasses.replace(recipe.batching, max_items=6))
    if decoder is not None:
        recipe = dataclasses.replace(recipe, decoder=decoder)
    return assembled(recipe, SIZES)


def assembled(recipe, sizes):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(0, size, (ITEMS,), generator=generator) for size in sizes], 1).int()
    if len(sizes) == 1:
        codes = torch.arange(ITEMS, dtype=torch.int32)[:, None]
    names = [f"thing {i}" for i in range(ITEMS)]
    return Recommender(recipe, Catalog(item_codes=codes, codebook_sizes=sizes, item_ids=names))


def toy():
    return assembled(toy_recipe(), (ITEMS,))


# A step that a test holds is not the backbone's own, so torch runs it and says so.
pytestmark = pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
MODEL = tiger()


class Gate:
    """Holds the worker at the n-th step of the backbone (or search of the decoder) until it is opened."""

    def __init__(self, monkeypatch, owner, name, at=1):
        self.reached, self.open, self.calls, self.at = threading.Event(), threading.Event(), 0, at
        self.users = []
        inner = getattr(owner, name)

        def held(*arguments, **options):
            self.calls += 1
            if self.calls == self.at:
                self.reached.set()
                assert self.open.wait(20)
            return inner(*arguments, **options)

        monkeypatch.setattr(owner, name, held)


def assert_same(left, right):
    for name in ("items", "codes", "exact"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    for name in ("scores", "bound"):  # sums of another batch size may round otherwise
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=1e-5, atol=1e-5)


def options_of(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(high):
        return int(torch.randint(0, high, (1,), generator=generator))

    count = 1 + draw(2)
    rows = [[draw(ITEMS) for _ in range(1 + draw(9))] for _ in range(count)]
    options = {"k": 1 + draw(7)}
    if draw(2):
        options["num_beams"] = options["k"] + draw(9)
    if draw(3) == 0:
        mask = torch.rand(ITEMS, generator=generator) < 0.4
        options["allowed"] = mask if draw(2) else mask.expand(count, ITEMS).clone()
    if draw(3) == 0:
        options["exclude"] = Jagged.from_rows([[draw(ITEMS) for _ in range(draw(20))] for _ in range(count)])
    options["exclude_seen"] = bool(draw(2))
    options["exact"] = draw(4) == 0
    options["users"] = [draw(9) for _ in range(count)]
    return rows, options


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12), st.integers(1, 8))
def test_many_threads_get_what_each_would_get_alone(seeds, max_running):
    asked = [options_of(seed) for seed in seeds]
    with MODEL.batcher(max_running=max_running) as batcher:
        futures = [batcher.submit(rows, **options) for rows, options in asked]
        found = [future.result(20) for future in futures]
    for (rows, options), ranked in zip(asked, found, strict=True):
        assert_same(ranked, MODEL.recommend(rows, **options))


@pytest.mark.threads
def test_callers_in_threads():
    asked = [options_of(seed) for seed in range(40)]
    with MODEL.batcher() as batcher, concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: batcher.recommend(one[0], timeout=30, **one[1]), asked))
    for (rows, options), ranked in zip(asked, found, strict=True):
        assert_same(ranked, MODEL.recommend(rows, **options))


def test_one_question_is_equal_bit_for_bit():
    with MODEL.batcher() as batcher:
        found = batcher.recommend([[3, 1, 4]], 5)
    alone = MODEL.recommend([[3, 1, 4]], 5)
    assert torch.equal(found.scores, alone.scores) and torch.equal(found.bound, alone.bound)


def test_a_new_question_starts_before_the_running_one_ends_and_may_end_before_a_longer_queue(monkeypatch):
    model = tiger()
    gate = Gate(monkeypatch, model.backbone, "decode", at=2)
    sizes = []
    with model.batcher(on_group=sizes.append) as batcher:
        first = batcher.submit([[1, 2]], 3)
        assert gate.reached.wait(20)  # level 1 of the first
        later = [batcher.submit([[4]], 3), batcher.submit([[5], [6]], 2)]
        begun = []
        inner = model.backbone.prefill
        monkeypatch.setattr(model.backbone, "prefill", lambda batch: begun.append(first.done()) or inner(batch))
        gate.open.set()
        assert_same(later[0].result(20), model.recommend([[4]], 3))
    assert begun[0] is False
    assert sizes == [1, 3]


OTHERS = {
    "greedy": lambda: tiger(GreedyConfig()),
    "stochastic": lambda: tiger(StochasticBeamConfig(num_beams=10, seed=3)),
    "best first": lambda: tiger(BestFirstConfig()),
    "best first, a budget": lambda: tiger(BestFirstConfig(num_beams=2)),
    "diverse": lambda: tiger(DiverseBeamConfig(num_beams=12, num_groups=3)),
    "no levels": toy,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_decoders(make):
    model = make()
    with model.batcher() as batcher:
        futures = [batcher.submit([[i, i + 1]], 1 + i % 3, exclude_seen=bool(i % 2)) for i in range(20)]
        for i, future in enumerate(futures):
            assert_same(future.result(20), model.recommend([[i, i + 1]], 1 + i % 3, exclude_seen=bool(i % 2)))


def test_times_are_each_question_s_own(monkeypatch):
    recipe = recipes.get("hstu")
    small = dataclasses.replace(recipe.backbone, width=8, num_layers=1, num_heads=1, max_items=6)
    recipe = dataclasses.replace(
        recipe, backbone=small, batching=dataclasses.replace(recipe.batching, max_items=6)
    )  # fmt: skip
    model = assembled(recipe, (ITEMS,))
    gate = Gate(monkeypatch, model.decoder, "begin")
    asked = [
        ([[1, 2, 3]], {"timestamps": [[10, 20, 5000]]}),
        ([[1, 2, 3]], {"timestamps": [[10, 20, 5000]], "target_timestamps": [90000.5]}),
        ([[4] * 9, [5]], {"timestamps": [list(range(0, 9000, 1000)), [7]], "exclude_seen": True}),
        ([[1, 2, 3]], {"timestamps": [[10, 4000, 5000]]}),
    ]
    sizes = []
    with model.batcher(on_group=sizes.append) as batcher:
        futures = [batcher.submit(rows, 5, **options) for rows, options in asked[:1]]
        assert gate.reached.wait(20)
        futures += [batcher.submit(rows, 5, **options) for rows, options in asked[1:]]
        gate.open.set()
        for (rows, options), future in zip(asked, futures, strict=True):
            assert_same(future.result(20), model.recommend(rows, 5, **options))
    assert sorted(sizes) == [1, 2, 2]  # who excludes is asked apart


def test_decoders_without_levels_are_asked_once_for_many(monkeypatch):
    model = toy()
    gate = Gate(monkeypatch, model.decoder, "begin")
    sizes = []
    with model.batcher(on_group=sizes.append) as batcher:
        futures = [batcher.submit([[1]], 3)]
        assert gate.reached.wait(20)
        futures += [batcher.submit([[i]], 3) for i in range(2, 9)]
        gate.open.set()
        for i, future in enumerate(futures, start=1):
            assert_same(future.result(20), model.recommend([[i]], 3))
    assert sizes == [1, 7]


def test_exact_is_widened_until_it_is_proven():
    with MODEL.batcher() as batcher:
        found = batcher.recommend([[7], [9]], 4, num_beams=4, exact=True)
    assert found.exact.all()
    assert_same(found, MODEL.recommend([[7], [9]], 4, num_beams=4, exact=True))


def test_an_error_is_its_own(monkeypatch):
    model = tiger()
    gate = Gate(monkeypatch, model.backbone, "decode")
    inner = model.backbone.prefill

    def poisoned(batch):
        if (batch.items.values == 13).any():
            raise IndexError("thirteen")
        return inner(batch)

    monkeypatch.setattr(model.backbone, "prefill", poisoned)
    with model.batcher() as batcher:
        first = batcher.submit([[1]], 3)
        assert gate.reached.wait(20)
        futures = {item: batcher.submit([[item]], 3) for item in (11, 12, 13, 14)}
        gate.open.set()
        with pytest.raises(IndexError, match="thirteen"):
            futures.pop(13).result(20)
        for item, future in futures.items():
            assert_same(future.result(20), model.recommend([[item]], 3))
        assert_same(first.result(20), model.recommend([[1]], 3))
        assert_same(batcher.recommend([[2]], 3), model.recommend([[2]], 3))


def test_a_full_queue_says_so(monkeypatch):
    model = tiger()
    gate = Gate(monkeypatch, model.backbone, "decode")
    with model.batcher(max_waiting=2) as batcher:
        first = batcher.submit([[1]], 3)
        assert gate.reached.wait(20)
        second = batcher.submit([[2], [3]], 3)
        with pytest.raises(QueueFullError, match=r"at most max_waiting = 2 users may wait, got 1 more than the 2"):
            batcher.submit([[4]], 3)
        assert batcher.counts == dataclasses.replace(
            batcher.counts, waiting=2, running=1, groups=1, searched=1, closed=False
        )
        gate.open.set()
        first.result(20), second.result(20)


def test_time_runs_out_in_the_queue_and_in_the_search(monkeypatch):
    model = tiger()
    gate = Gate(monkeypatch, model.backbone, "decode")
    with model.batcher() as batcher:
        running = batcher.submit([[1]], 3, timeout=0.5)  # enough to begin on a slow machine
        assert gate.reached.wait(20)
        queued = batcher.submit([[2]], 3, timeout=0.01)
        with pytest.raises(TimedOutError, match=r"timeout must leave time for the answer, got 0.02 s"):
            batcher.recommend([[3]], 3, timeout=0.02)
        cancelled = batcher.submit([[5]], 3)
        assert cancelled.cancel()
        time.sleep(0.6)
        gate.open.set()
        for future, text in ((running, r"got 0\.5 s"), (queued, r"got 0\.01 s")):
            with pytest.raises(TimedOutError, match=text):
                future.result(20)
        done, _ = concurrent.futures.wait([cancelled], 20)
        assert done == {cancelled}
        assert_same(batcher.recommend([[4]], 3), model.recommend([[4]], 3))
    assert gate.calls == 1 + 2 * len(SIZES)  # of the first only the level that ran; [4] in the batcher and alone


@pytest.mark.parametrize("drain", [True, False])
def test_close(monkeypatch, drain):
    model = tiger()
    gate = Gate(monkeypatch, model.backbone, "decode")
    batcher = model.batcher()
    futures = [batcher.submit([[1]], 3)]
    assert gate.reached.wait(20)
    futures.append(batcher.submit([[2]], 3))
    assert not batcher.close(drain=drain, timeout=0.01)
    with pytest.raises(ClosedError, match="must be open to be asked"):
        batcher.submit([[3]], 3)
    gate.open.set()
    assert batcher.close(drain=drain)
    for future in futures:
        if drain:
            assert future.result(0).items.shape == (1, 3)
        else:
            with pytest.raises(ClosedError, match="until it answered"):
                future.result(0)
    assert batcher.counts.closed and batcher.counts.waiting == batcher.counts.running == 0


def test_a_callback_may_close_it():
    batcher = MODEL.batcher()
    ended = []
    future = batcher.submit([[1]], 3)
    future.add_done_callback(lambda _: ended.append(batcher.close()))
    future.result(20)
    assert batcher.close()
    assert len(ended) == 1


def test_python_ends_with_a_batcher_at_work(tmp_path):
    MODEL.save(tmp_path)
    code = (
        "import sys, genrec_fast as gf; batcher = gf.load(sys.argv[1]).batcher(); "
        "futures = [batcher.submit([[1, 2]], 3) for _ in range(500)]; futures[0].result(60); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"histories": [[ITEMS]]}, InvalidValueError, r"histories must hold item ids in \[0, 60\)"),
        ({"histories": [[]]}, InvalidValueError, "histories must not be empty"),
        ({"k": 0}, InvalidValueError, "k must be at least 1, got 0"),
        ({"k": 5, "num_beams": 4}, InvalidValueError, "num_beams must be at least k = 5, got 4"),
        ({"timeout": 0}, InvalidValueError, "timeout must be above 0 and finite, got 0"),
        ({"timeout": float("nan")}, InvalidValueError, "timeout must be above 0 and finite, got nan"),
        ({"timeout": "1"}, InvalidTypeError, "timeout must be a number of seconds, got '1'"),
        ({"allowed": torch.ones(ITEMS)}, InvalidTypeError, "allowed must be bool, got float32"),
        ({"exclude": Jagged.from_rows([[-1]])}, InvalidValueError, r"exclude must hold item ids in \[0, 60\), got -1"),
        ({"users_per_batch": 3}, InvalidTypeError, "options are .*, got users_per_batch"),
    ],
)
def test_wrong_questions_fail_where_they_are_asked(arguments, error, text):
    with MODEL.batcher() as batcher, pytest.raises(error, match=text):
        batcher.submit(**{"histories": [[1]], **arguments})


def test_wrong_settings():
    with pytest.raises(InvalidValueError, match="batcher: max_running must be at least 1, got 0"):
        Batcher(MODEL, max_running=0)
    with pytest.raises(InvalidTypeError, match=r"batcher: max_waiting must be an int, got 1\.5"):
        MODEL.batcher(max_waiting=1.5)

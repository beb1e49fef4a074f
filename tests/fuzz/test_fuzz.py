from __future__ import annotations

import os

import pytest

import genrec_fast as gf
from fuzz import targets  # noqa: F401 - registers the generators
from fuzz.case import TARGETS, Case, Rng, Target, target
from fuzz.engine import Engine
from fuzz.report import text

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks its workers"),
    # Python 3.12 warns wherever a process with threads forks; the workers use one thread.
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]
SHORT = [name for name, made in TARGETS.items() if made.share >= 0.1]


def test_every_public_op_has_a_generator():
    covered = {name for made in TARGETS.values() for name in made.covers}
    assert set(gf.ops.__all__) <= covered


def test_a_short_run_finds_no_fault():
    outcome = Engine(seed=0, names=SHORT, progress=False).run(seconds=300, cases=len(SHORT))
    assert not outcome.groups, text(outcome, 0)
    assert outcome.calls == sum(TARGETS[name].calls for name in SHORT)
    assert sum(count.equal for count in outcome.counts.values()) > outcome.calls / 5


def one_target(call, right=None):
    """A target of one whole number, outside the registry."""
    return Target("made up", lambda rng: Case(call, {"n": rng.randint(0, 9)}, right), calls=20)


def found(monkeypatch, made):
    monkeypatch.setitem(TARGETS, made.name, made)
    outcome = Engine(seed=0, names=[made.name], patience=1.0, progress=False).run(seconds=60, cases=3)
    return {group.first.kind: group for group in outcome.groups.values()}, outcome


def test_a_death_is_reported_and_the_run_goes_on(monkeypatch):
    kinds, outcome = found(monkeypatch, one_target(lambda n: os.abort() if n == 3 else n, lambda n: n))
    assert kinds["death (SIGABRT)"].first.call >= 0
    assert outcome.calls == 60


def test_a_hang_is_reported(monkeypatch):
    def call(n):
        while isinstance(n, float):
            pass
        return n

    kinds, _ = found(monkeypatch, one_target(call, lambda n: n))
    assert "hang" in kinds


def test_a_foreign_error_and_a_difference_are_reported(monkeypatch):
    kinds, _ = found(monkeypatch, one_target(lambda n: n + 1, lambda n: n))
    assert "must be" in kinds["difference"].first.what
    assert "TypeError" in kinds["foreign error"].first.what


def test_calls_are_the_same_for_a_seed():
    def drawn(seed):
        rng = Rng().start(seed)
        return rng.random(), rng.normal(2).tolist()

    assert drawn(5) == drawn(5) != drawn(6)
    with pytest.raises(AssertionError):
        target(next(iter(TARGETS)))(lambda rng: Case(len, {}))

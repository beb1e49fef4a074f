"""A bad day of a training: every mishap ends in the library's own error and loses nothing.

The training goes on from there, to the very weights of a run that was not disturbed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrec_fast.base.errors import (
    CorruptFileError,
    FolderInUseError,
    GenrecError,
    InvalidValueError,
    MissingFolderError,
    StorageError,
)
from genrec_fast.base.files import atomic_path
from genrec_fast.base.weights import module_tensors
from genrec_fast.recipe.recommender import load
from genrec_fast.recipe.run import read_run
from genrec_fast.tokenizers import RandomConfig
from genrec_fast.training import train
from genrec_fast.training.checkpoint import load_checkpoint
from genrec_fast.training.log import read_log
from shared.flips import check_flips
from shared.killed import entries, kill_at
from toy import ToyBackboneConfig, ToyObjective, toy_data, toy_recipe

TESTS = str(Path(__file__).parent.parent)
MODEL = ["catalog.safetensors", "items.json", "recipe.json", "weights.safetensors"]
RUN = sorted(["checkpoint.safetensors", "item_codes.safetensors", "log.jsonl", "run.json", *MODEL, "trie.safetensors"])


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """A picture takes longer than a training of a toy."""
    monkeypatch.setattr("genrec_fast.training.loop.draw_curves", lambda log, picture: False)


def recipe(**settings):
    return dataclasses.replace(
        toy_recipe(checkpoint_minutes=0.0, **settings), tokenizer=RandomConfig(codebook_sizes=(6, 6))
    )


def run(out=None, seed=3, resume=True, **settings):
    return train(recipe(**settings), toy_data(), seed=seed, out=out, resume=resume, device="cpu", show_progress=False)


def weights(model):
    return module_tensors(model.backbone)


def same(left, right):
    left, right = weights(left), weights(right)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was not disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genrec_fast.training.loop.draw_curves", lambda log, picture: False)
        return run(out), entries(out)


@contextlib.contextmanager
def at_step(monkeypatch, number, action):
    """Does something before the step of that number, counted from 1, and no further."""
    original, calls = ToyObjective.__call__, 0

    def call(self, system, batch):
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return original(self, system, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ToyObjective, "__call__", call)
        yield


def interrupted(out, monkeypatch, number=13, **settings):
    """A training that was stopped in the second of three epochs."""
    with (
        at_step(monkeypatch, number, lambda: signal.raise_signal(signal.SIGINT)),
        pytest.raises(KeyboardInterrupt),
    ):
        run(out, **settings)


def goes_on(out, whole):
    """The training ends as the undisturbed one, in the same files."""
    model, log = whole
    assert same(run(out), model)
    assert entries(out) == log
    assert same(load(out), model)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == RUN


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root may mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(small_disk, monkeypatch, whole):
    ballast = small_disk / "ballast"

    def fill():
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()

    out = small_disk / "out"
    with (
        at_step(monkeypatch, 13, fill),
        pytest.raises(StorageError, match=r"must be written, got: No space left on device; free some space") as told,
    ):
        run(out)
    assert told.value.errno == errno.ENOSPC
    assert load_checkpoint(out / "checkpoint.safetensors").progress.step >= 11
    ballast.unlink()
    goes_on(out, whole)


@pytest.mark.parametrize("writer", [1, 2, 3, 4, 12, 34, 35, 38, 39])
def test_no_room_at_any_write(tmp_path, monkeypatch, whole, writer):
    """Whatever cannot be written: run.json, semantic IDs, log, checkpoints, the model."""
    replace, calls = Path.replace, 0

    def full(self, target):
        nonlocal calls
        calls += 1
        if calls == writer:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StorageError, match="No space left on device"):
            run(tmp_path / "out")
    goes_on(tmp_path / "out", whole)


def test_files_that_may_not_grow(tmp_path, monkeypatch, whole):
    """``ulimit -f``: a checkpoint and a line of the log are cut short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))

    try:
        with at_step(monkeypatch, 13, limit), pytest.raises(StorageError, match=r"got: File too large; this process"):
            run(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    goes_on(tmp_path / "out", whole)


def test_a_folder_that_becomes_read_only(small_disk, monkeypatch, whole):
    place = str(small_disk)

    def cover():
        """The same place again, read-only: a mount with open files can only be covered."""
        subprocess.run(["mount", "--bind", place, place], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)

    out = small_disk / "out"
    with (
        at_step(monkeypatch, 13, cover),
        pytest.raises(StorageError, match="got: Read-only file system; choose a folder that can be written to"),
    ):
        run(out)
    with pytest.raises(StorageError, match=r"^train: .*out must be written, got: Read-only file system"):
        run(out)
    with pytest.raises(StorageError, match=r"^save: .* must be written, got: Read-only file system"):
        whole[0].save(small_disk / "elsewhere")
    subprocess.run(["umount", "-l", place], check=True)
    goes_on(out, whole)


def test_a_folder_that_is_gone_comes_back(tmp_path, monkeypatch, whole):
    out, away = tmp_path / "out", tmp_path / "away"
    with (
        at_step(monkeypatch, 13, lambda: out.rename(away)),
        pytest.raises(MissingFolderError, match=r"^train: .*out must stay while it is written to, but it is gone"),
    ):
        run(out)
    assert not out.exists()
    away.rename(out)
    goes_on(out, whole)


def test_a_folder_that_was_removed(tmp_path, monkeypatch, whole):
    with at_step(monkeypatch, 13, lambda: shutil.rmtree(tmp_path / "out")), pytest.raises(MissingFolderError):
        run(tmp_path / "out")
    goes_on(tmp_path / "out", whole)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match=r"^train: .*out must be written, got: File exists; choose a folder"):
        run(tmp_path / "out")


# The log


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode()[:-9],
        lambda text: b"\xff" + text.encode()[1:],
        lambda text: text.replace("7", "8").encode(),
    ],
    ids=["utf-16", "crlf", "mark", "cut", "no utf-8", "edited"],
)
def test_a_log_that_an_editor_saved(tmp_path, monkeypatch, whole, damage):
    out = tmp_path / "out"
    interrupted(out, monkeypatch)
    log = out / "log.jsonl"
    text = log.read_text(encoding="utf-8")
    log.write_bytes(damaged := damage(text))
    with pytest.raises(CorruptFileError, match=r"log\.jsonl was altered since .*; put it back as it was, or move it"):
        run(out)
    assert log.read_bytes() == damaged
    shutil.copytree(out, tmp_path / "moved")
    log.write_text(text, encoding="utf-8")
    goes_on(out, whole)
    (tmp_path / "moved" / "log.jsonl").unlink()
    assert same(run(tmp_path / "moved"), whole[0])
    assert entries(tmp_path / "moved") == whole[1][-len(entries(tmp_path / "moved")) :]


def test_lines_that_the_checkpoint_had_not_seen_may_be_anything(tmp_path, monkeypatch, whole):
    interrupted(tmp_path / "out", monkeypatch)
    with (tmp_path / "out" / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "\xff\xfe')
    goes_on(tmp_path / "out", whole)


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00\n\x00", b"\xff\n", b"[\n"])
def test_a_log_in_another_encoding_is_named_by_its_line(tmp_path, content):
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"^read_log: .*log\.jsonl:1 is not JSON"):
        read_log(tmp_path / "log.jsonl")


# Other trainings


TRAINS = """
import sys, time
sys.path[:0] = sys.argv[2:]
from training.test_mishaps import recipe
import toy
original = toy.ToyObjective.__call__
def call(self, system, batch):
    if self.calls == 12:
        print("at step 12", flush=True)
        time.sleep(600)
    return original(self, system, batch)
toy.ToyObjective.__call__ = call
from genrec_fast.training import train
train(recipe(), toy.toy_data(), seed=3, out=sys.argv[1], device="cpu", show_progress=False)
"""


def test_a_second_training_is_refused_and_a_killed_one_is_no_obstacle(tmp_path, whole):
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", TRAINS, str(out), TESTS, *sys.path], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "at step 12\n"
            for resume in (True, False):
                with pytest.raises(FolderInUseError, match=rf"^train: .*got process {child.pid} on .* \(train\); wait"):
                    run(out, resume=resume)
            with pytest.raises(FolderInUseError, match=rf"^save: .*got process {child.pid} on"):
                whole[0].save(out)
        finally:
            child.kill()
    for name in (".checkpoint.123.0123abcd.tmp.safetensors", ".tmpAb12Z9"):  # killed while it wrote
        (out / name).write_bytes(b"half")
    (out / "notes.txt").write_text("mine")
    assert same(run(out), whole[0])
    assert sorted(path.name for path in out.iterdir()) == sorted([*RUN, "notes.txt"])


def test_files_of_two_runs_are_not_joined(tmp_path, monkeypatch, whole):
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        interrupted(out, monkeypatch)
    assert read_run(one) != read_run(two)
    for name in ("checkpoint.safetensors", "item_codes.safetensors"):
        kept = (one / name).read_bytes()
        shutil.copy(two / name, one / name)
        with pytest.raises(CorruptFileError, match=rf"{name} must be of run {read_run(one).name}"):
            run(one)
        (one / name).write_bytes(kept)
    (one / "log.jsonl").write_bytes((two / "log.jsonl").read_bytes())  # its times are other ones
    with pytest.raises(CorruptFileError, match=r"log\.jsonl was altered"):
        run(one)
    goes_on(two, whole)


def test_a_run_file_that_is_damaged_or_gone(tmp_path, monkeypatch, whole):
    out = tmp_path / "out"
    interrupted(out, monkeypatch)
    (out / "run.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"run\.json is cut short or altered .*; remove it to go on"):
        run(out)
    (out / "run.json").unlink()
    goes_on(out, whole)


# Starting over


def state(out):
    """What the library sees in a folder: (where a training goes on from, the weights of the model)."""
    known = read_run(out)
    gone = known is None or known.clearing or not (out / "checkpoint.safetensors").exists()
    at = None if gone else load_checkpoint(out / "checkpoint.safetensors").progress.run
    try:
        return at, load(out)
    except CorruptFileError:
        return at, None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that is killed needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_starting_over_and_killed_anywhere_leaves_the_old_run_whole_or_gone(tmp_path, whole):
    """Killed before each of its first changes to the folder in turn."""
    old = run(tmp_path / "old", seed=1)
    seen = []
    for at in (*range(1, 9), 12, 16, 20):
        out = Path(shutil.copytree(tmp_path / "old", tmp_path / str(at)))
        name = read_run(out).name
        child = os.fork()
        if child == 0:
            kill_at(at)
            run(out, resume=False)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        run_name, model = state(out)
        if run_name == name:
            assert same(model, old)
            assert same(run(out, seed=1), old)  # it is still there, and finished
        else:
            assert model is None
            goes_on(out, whole)
        seen.append(run_name == name)
    assert seen[0]
    assert not seen[-1]
    assert sorted(seen, reverse=True) == seen


def test_starting_over_with_what_cannot_be_trained_leaves_the_old_run(tmp_path, whole):
    out = tmp_path / "out"
    run(out)
    with pytest.raises(GenrecError):
        train(recipe(), toy_data(users=0), seed=3, out=out, resume=False, device="cpu", show_progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    wider = dataclasses.replace(recipe(), backbone=ToyBackboneConfig(width=9))
    with pytest.raises(InvalidValueError, match="start must have the recipe's backbone"):
        train(wider, toy_data(), seed=3, out=out, resume=False, device="cpu", show_progress=False, start=whole[0])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    goes_on(out, whole)


def test_starting_over_leaves_what_is_not_the_trainings(tmp_path):
    out = tmp_path / "out"
    run(out, seed=1)
    (out / "notes.txt").write_text("mine")
    (out / "data").mkdir()
    (out / "test.json").write_text("{}")
    assert same(run(out, seed=2, resume=False), run(seed=2))
    assert sorted(path.name for path in out.iterdir()) == sorted([*RUN, "notes.txt", "data"])


# Bytes


def test_every_flip_in_a_training_folder_is_found_or_harmless(tmp_path, monkeypatch, whole):
    out, copy = tmp_path / "out", tmp_path / "copy"
    interrupted(out, monkeypatch, number=22)
    log = entries(out)

    def again():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(out, copy)
        return run(copy)

    for name in ("checkpoint.safetensors", "item_codes.safetensors", "log.jsonl", "run.json"):
        found = check_flips(out / name, again, lambda model: same(model, whole[0]), 40)
        assert found > 20, name
    assert entries(out) == log
    goes_on(out, whole)


def test_a_finished_training_asked_again_leaves_its_model_and_mends_a_damaged_one(tmp_path, whole):
    out = tmp_path / "out"
    run(out)
    before = (out / "recipe.json").read_bytes()
    assert json.loads(before)["run"] == read_run(out).name
    goes_on(out, whole)
    assert (out / "recipe.json").read_bytes() == before
    (out / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CorruptFileError):
        load(out)
    goes_on(out, whole)


def test_what_a_writer_may_raise_is_the_librarys(tmp_path):
    def write():
        with atomic_path(tmp_path / "a"), Path("/dev/full").open("w") as full:
            full.write("x" * 100_000)

    with pytest.raises(StorageError, match=r"a must be written, got: No space left on device"):
        write()
    assert list(tmp_path.iterdir()) == []

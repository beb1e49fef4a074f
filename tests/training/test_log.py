from __future__ import annotations

import pytest

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.training.log import Log, ProgressBar, read_log


def test_a_resumed_log_forgets_what_the_checkpoint_had_not_seen(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write(step=1, loss=0.5)
    known = log.size
    log.write(step=2, loss=0.25)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')  # a kill in the middle of a line
    assert [entry["step"] for entry in read_log(path)] == [1, 2]
    log = Log(path, known)
    log.write(step=2, loss=0.125)
    assert read_log(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.125}]


def test_a_new_training_starts_a_new_log(tmp_path):
    Log(tmp_path / "log.jsonl").write(step=1)
    Log(tmp_path / "log.jsonl")
    assert read_log(tmp_path / "log.jsonl") == []


def test_an_altered_log_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write(step=1)
    path.write_text(" " * 100)
    with pytest.raises(CorruptFileError, match=r"log\.jsonl was altered since the checkpoint was written"):
        Log(path, log.size)
    path.write_text("nonsense\n")
    with pytest.raises(CorruptFileError, match=r"log\.jsonl:1 is not JSON"):
        read_log(path)


def test_time_left_follows_the_pace_and_the_limit():
    bar = ProgressBar(100, 4, None, show=False)
    assert bar.left(20, 50.0) == float("inf")  # the pace is not known yet
    assert bar.left(30, 60.0) == 70.0
    limited = ProgressBar(100, 4, 1.5, show=False)
    limited.left(20, 50.0)
    assert limited.left(30, 60.0) == 30.0

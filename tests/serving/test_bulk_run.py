"""Files of questions to files of answers: every form, every way to be wrong, and every moment to be killed."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import pytest
from test_bulk import histories

import genrec_fast as gf
from genrec_fast.base.errors import CorruptFileError, DataError, FolderInUseError, InvalidValueError, StorageError
from genrec_fast.base.lock import FolderLock
from genrec_fast.cli import main
from genrec_fast.serving import answer_file, question_file
from genrec_fast.serving.answer_file import AnswerFile
from genrec_fast.serving.bulk_run import BulkConfig, recommend_file
from genrec_fast.serving.unfinished import Unfinished
from toy import toy_data, toy_recipe

QUIET = BulkConfig(users_per_batch=4, show=False)  # windows of 32 lines


@pytest.fixture(scope="module")
def model():
    return gf.train(toy_recipe(epochs=1), toy_data(), show_progress=False)


@pytest.fixture
def users(tmp_path):
    """A file of 150 lines, one of which is wrong."""
    path = tmp_path / "users.jsonl"
    lines = [json.dumps({"id": f"user {n}", "history_ids": row}) for n, row in enumerate(histories(150))]
    lines[40] = '{"history": ["nothing"]}'
    path.write_text("\n".join(lines) + "\n")
    return path


def run(model, source, target, config=QUIET, **defaults):
    return recommend_file(model, str(source), str(target), {"k": 3, **defaults}, config)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def left_behind(folder, *known):
    return {path.name for path in folder.iterdir()} - {path.name for path in known}


def test_a_line_for_each_line(model, users, tmp_path):
    outcome = run(model, users, tmp_path / "out.jsonl")
    assert (outcome.tally.answered, outcome.tally.failed, outcome.lines) == (149, 1, 150)
    assert outcome.tally.first_error.startswith("line 41: recommend: each item of histories must be one of")
    found = read(tmp_path / "out.jsonl")
    expected = list(gf.recommend_many(model, read(users), 3, strict=False, users_per_batch=4))
    assert found == expected
    assert left_behind(tmp_path, users, tmp_path / "out.jsonl") == set()


def test_packed_files_and_tables_say_the_same(model, users, tmp_path, monkeypatch):
    monkeypatch.setattr(answer_file, "_GROUP_BYTES", 10_000)  # some twenty lines
    run(model, users, tmp_path / "out.jsonl")
    expected = read(tmp_path / "out.jsonl")
    packed = tmp_path / "users.jsonl.gz"
    packed.write_bytes(gzip.compress(users.read_bytes()))
    run(model, packed, tmp_path / "out.jsonl.gz")
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == (tmp_path / "out.jsonl").read_bytes()
    pl.DataFrame(read(users), infer_schema_length=None).write_parquet(tmp_path / "users.parquet")
    run(model, tmp_path / "users.parquet", tmp_path / "again.jsonl")
    assert read(tmp_path / "again.jsonl") == expected
    run(model, tmp_path / "users.parquet", tmp_path / "out.parquet")
    rows = pl.read_parquet(tmp_path / "out.parquet").to_dicts()
    assert [{name: value for name, value in row.items() if value is not None} for row in rows] == [
        {name: value for name, value in answer.items() if value is not None} for answer in expected
    ]


def test_a_table_keeps_the_type_of_its_ids_and_reads_dates(tmp_path):
    frame = pl.DataFrame(
        {
            "id": pl.Series([2**40, 3], dtype=pl.Int64),
            "history_ids": [[1, 2], [3]],
            "times": [[datetime(1970, 1, 2), datetime(1970, 1, 3)], [datetime(2020, 1, 1)]],
            "at": [datetime(1970, 1, 4, tzinfo=timezone.utc), None],
        }
    )
    frame.write_parquet(tmp_path / "users.parquet")
    table = question_file.open_questions(str(tmp_path / "users.parquet"))
    ((lines, place),) = table.windows(8, question_file.Place())
    assert lines[0] == (1, {"id": 2**40, "history_ids": [1, 2], "times": [86400.0, 172800.0], "at": 259200.0})
    assert lines[1][1]["times"] == [1577836800.0]
    assert place == question_file.Place(2, 2)


def test_ids_of_a_table_come_back_as_they_were(model, tmp_path):
    frame = pl.DataFrame({"id": [5, 6], "user": ["Ann", "Bob"], "history_ids": [[1], [2]]})
    frame.write_parquet(tmp_path / "users.parquet")
    run(model, tmp_path / "users.parquet", tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet")["id", "user"].equals(frame["id", "user"])


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_no_users_are_no_answers(model, tmp_path, name):
    (tmp_path / "users.jsonl").write_text("\n\n")
    assert run(model, tmp_path / "users.jsonl", tmp_path / name).tally.lines == 0
    assert (tmp_path / name).exists()
    if name.endswith("parquet"):
        assert pl.read_parquet(tmp_path / name).height == 0


def test_every_line_that_is_none_is_its_own_error(model, tmp_path, monkeypatch):
    monkeypatch.setattr(question_file, "_MAX_LINE", 1000)
    good = b'{"history_ids": [1, 2]}'
    lines = [
        b"\xef\xbb\xbf" + good,
        b"",
        b"{",
        b'{"history_ids": [1]} {}',
        b'{"history_ids": ["\xff"]}',
        b"[" * 900,
        b'{"history_ids": [' + b"1, " * 5000 + b"1]}",
        b'{"history_ids": [' + b"9" * 700 + b"]}",
        b'{"history_ids": [NaN]}',
        b"null",
        good + b"\r",
        good,
    ]
    (tmp_path / "users.jsonl").write_bytes(b"\n".join(lines))
    outcome = run(model, tmp_path / "users.jsonl", tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert len(found) == len(lines) - 1
    assert [answer.get("line") for answer in found] == [None, 3, 4, 5, 6, 7, 8, 9, 10, None, None]
    assert [len(answer["items"]) for answer in (found[0], *found[-2:])] == [3, 3, 3]
    assert (outcome.tally.answered, outcome.tally.failed) == (3, 8)


def test_strict_stops_at_the_line_and_says_which(model, users, tmp_path):
    config = BulkConfig(users_per_batch=4, show=False, strict=True)
    with pytest.raises(InvalidValueError, match=r"^line 41: recommend: each item of histories must be one of"):
        run(model, users, tmp_path / "out.jsonl", config)
    assert left_behind(tmp_path, users) == set()


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
@pytest.mark.parametrize("windows", [0, 1, 3])
def test_a_run_that_ended_early_is_gone_on_with(model, users, tmp_path, monkeypatch, name, windows):
    run(model, users, tmp_path / f"whole.{name}")
    source, searched = users, []
    recommend = type(model).recommend

    def ended(self, histories, *args, **options):
        searched.append(histories)
        if len(searched) > 8 * windows + 2:
            raise KeyboardInterrupt
        return recommend(self, histories, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "recommend", ended)
        with pytest.raises(KeyboardInterrupt, match=f"stopped behind line {32 * windows}; the same command goes on"):
            run(model, source, tmp_path / name)
    assert not (tmp_path / name).exists()
    with (tmp_path / f"{name}.unfinished" / "answers").open("ab") as file:
        file.write(b"half a wind")  # written when the power went
    outcome = run(model, source, tmp_path / name)
    assert outcome.lines == 150 - 32 * windows
    assert outcome.tally.lines == 150
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    assert not (tmp_path / f"{name}.unfinished").exists()


@pytest.mark.parametrize("moment", ["finish", "remove"])
def test_a_run_that_ended_at_its_end_is_ended(model, users, tmp_path, monkeypatch, moment):
    run(model, users, tmp_path / "whole.jsonl")

    def ended(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, moment, ended)
        with pytest.raises(KeyboardInterrupt):
            run(model, users, tmp_path / "out.jsonl")
    outcome = run(model, users, tmp_path / "out.jsonl")
    assert (outcome.lines, outcome.tally.lines) == (0, 150)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert left_behind(tmp_path, users) == {"out.jsonl", "whole.jsonl"}


@pytest.fixture
def begun(model, users, tmp_path, monkeypatch):
    """A run that ended at its second window."""

    def ended(self, answers, place):
        raise KeyboardInterrupt

    append = AnswerFile.append
    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "append", lambda *given: append(*given) if given[2].lines == 32 else ended(*given))
        with pytest.raises(KeyboardInterrupt):
            run(model, users, tmp_path / "out.jsonl")
    return tmp_path / "out.jsonl"


def test_other_questions_another_model_or_other_options_are_refused(model, users, begun, tmp_path):
    other = gf.train(toy_recipe(epochs=1), toy_data(), seed=1, show_progress=False)
    again = "run again what was begun, choose another --output, or give --no-resume to start over"
    with pytest.raises(InvalidValueError, match=f"--output must have the model that it was begun with.*{again}"):
        run(other, users, begun)
    with pytest.raises(InvalidValueError, match=f'the options .*"k": 3.*"k": 4.*{again}'):
        run(model, users, begun, k=4)
    was = users.read_text()
    users.write_text(was.replace("user 149", "user 148"))
    with pytest.raises(InvalidValueError, match=f"the input .*{again}"):
        run(model, users, begun)
    outcome = run(model, users, begun, BulkConfig(users_per_batch=4, show=False, resume=False))
    assert outcome.lines == 150
    assert read(begun)[-1]["id"] == "user 148"


def test_a_file_that_was_only_touched_is_the_same(model, users, begun):
    os.utime(users, (1, 1))
    assert run(model, users, begun).lines == 118


@pytest.mark.parametrize(
    ("name", "data"),
    [("answers", b""), ("state.json", b"{"), ("state.json", b"[]"), ("state.json", b'{"format": "other"}')],
)
def test_what_was_altered_meanwhile_is_said(model, users, begun, name, data):
    (begun.parent / "out.jsonl.unfinished" / name).write_bytes(data)
    with pytest.raises(CorruptFileError, match="give --no-resume to start over"):
        run(model, users, begun)
    run(model, users, begun, BulkConfig(users_per_batch=4, show=False, resume=False))
    assert len(read(begun)) == 150


def test_two_runs_of_one_output_are_one_too_many(model, users, begun):
    with FolderLock(begun.parent / "out.jsonl.unfinished", "recommend"):
        for resume in (True, False):
            with pytest.raises(FolderInUseError, match=f"must have one writer at a time, got process {os.getpid()} "):
                run(model, users, begun, BulkConfig(users_per_batch=4, show=False, resume=resume))
    assert run(model, users, begun).lines == 118


def test_a_full_disk_is_said_and_the_run_is_gone_on_with(model, users, tmp_path):
    resource = pytest.importorskip("resource")
    run(model, users, tmp_path / "whole.jsonl")
    out = tmp_path / "out.jsonl"
    most = (tmp_path / "whole.jsonl").stat().st_size // 2
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        with pytest.raises(StorageError, match="answers must be written, got: File too large"):
            run(model, users, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert 0 < run(model, users, out).lines < 150
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_names_that_cannot_be_are_refused(model, users, tmp_path):
    with pytest.raises(InvalidValueError, match="--input must be a file that is there"):
        run(model, tmp_path / "no.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(InvalidValueError, match="--input must be a file, got the folder"):
        run(model, tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(InvalidValueError, match="--output must be another file than --input"):
        run(model, users, users)
    with pytest.raises(InvalidValueError, match="--output must be the name of a file, got the folder"):
        run(model, users, tmp_path)
    with pytest.raises(FileNotFoundError, match="the folder of --output must exist"):
        run(model, users, tmp_path / "no" / "out.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(users.read_bytes())[:-20])
    with pytest.raises(DataError, match="must be gzipped and whole"):
        run(model, tmp_path / "cut.jsonl.gz", tmp_path / "out.jsonl")
    (tmp_path / "none.parquet").write_text("none")
    with pytest.raises(DataError, match="must be Parquet"):
        run(model, tmp_path / "none.parquet", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model that a process of its own can read."""
    folder = tmp_path_factory.mktemp("model")
    recipe = gf.recipes.sasrec()
    recipe = replace(recipe, backbone=replace(recipe.backbone, width=16), train=gf.TrainConfig(epochs=1))
    gf.train(recipe, toy_data(), show_progress=False).save(folder)
    return folder


def test_the_command(folder, users, tmp_path, capsys):
    command = ["recommend", str(folder), "--input", str(users), "--threads", "1"]
    assert main([*command, "--output", str(tmp_path / "out.jsonl"), "-k", "4", "--exclude-seen"]) == 1
    error = capsys.readouterr().err
    assert "150 users in " in error
    assert " a second: " in error
    assert "1 of 150 lines have no answer; line 41: recommend: each item of histories must be" in error
    assert all(len(answer["items"]) == 4 for answer in read(tmp_path / "out.jsonl") if "error" not in answer)
    assert main([*command, "--output", "-", "-k", "4", "--exclude-seen", "--quiet"]) == 1
    assert capsys.readouterr().out == (tmp_path / "out.jsonl").read_text()
    assert main([*command, "--output", str(tmp_path / "out.jsonl"), "--strict"]) == 2
    assert capsys.readouterr().err.startswith("genrec-fast: line 41: recommend: ")
    assert main([*command, "--output", str(tmp_path / "out.jsonl"), "--num-beams", "0"]) == 2
    assert "genrec-fast: recommend: --num-beams must be at least 1, got 0" in capsys.readouterr().err


def test_what_may_be_recommended_to_everybody(folder, users, tmp_path, capsys):
    (tmp_path / "stock.txt").write_text("thing 5\nthing 6\nthing 7\nTitle 8\n")
    command = ["recommend", str(folder), "--input", str(users), "--output", str(tmp_path / "out.jsonl"), "--quiet"]
    assert main([*command, "--allowed", f"@{tmp_path / 'stock.txt'}", "--exclude", "id:6"]) == 1
    for answer in read(tmp_path / "out.jsonl"):
        assert "error" in answer or {item["id"] for item in answer["items"]} == {5, 7, 8}
    assert main([*command, "--allowed", "nothing of this name"]) == 2
    assert "genrec-fast: recommend: each item of --allowed must be one of" in capsys.readouterr().err


def test_a_pipe_may_be_on_both_sides(folder, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"history_ids": [3]}\n\n{"id": 5, "history_ids": [4]}'))
    )
    assert main(["recommend", str(folder), "--input", "-", "--output", "-", "-k", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr()
    answers = [json.loads(line) for line in printed.out.splitlines()]
    assert [(answer.get("id"), len(answer["items"])) for answer in answers] == [(None, 2), (5, 2)]
    assert printed.err.startswith("2 users in ")


def test_a_pipe_to_a_file_is_whole_or_not_there_and_begins_again(model, tmp_path, monkeypatch):
    lines = b'{"history_ids": [3]}\n' * 70

    class Breaking(io.BytesIO):
        def readline(self, size=-1):
            if self.tell() > 50 * 21:
                raise KeyboardInterrupt
            return super().readline(size)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Breaking(lines)))
    with pytest.raises(KeyboardInterrupt, match="stopped behind line 32; the same command begins again"):
        run(model, "-", tmp_path / "out.jsonl")
    assert left_behind(tmp_path) == {"out.jsonl.unfinished"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert run(model, "-", tmp_path / "out.jsonl").lines == 70
    assert len(read(tmp_path / "out.jsonl")) == 70
    assert left_behind(tmp_path) == {"out.jsonl"}


def test_the_commands_help(capsys):
    with pytest.raises(SystemExit) as done:
        main(["recommend", "--input", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "--users-per-batch" in text
    assert "--strict" in text


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_killed_again_and_again_the_output_has_the_same_bytes(folder, tmp_path):
    users = tmp_path / "users.jsonl"
    users.write_text("".join(f'{{"history_ids": {row}}}\n' for row in histories(3000)))
    command = ["recommend", str(folder), "--input", str(users), "--users-per-batch", "8", "--threads", "1", "--quiet"]
    assert main([*command, "--output", str(tmp_path / "whole.jsonl")]) == 0
    out, noted = tmp_path / "out.jsonl", tmp_path / "out.jsonl.unfinished" / "state.json"
    processes = multiprocessing.get_context("forkserver")  # torch is read once, by the server
    processes.set_forkserver_preload(["genrec_fast.serving.bulk_run"])
    chance, lines, kills = random.Random(0), [0], 0
    while True:
        child = processes.Process(target=main, args=([*command, "--output", str(out)],))
        child.start()
        if kills == 6:
            child.join(60)
            break
        before, until = lines[-1], time.monotonic() + 60
        while (here := _lines(noted)) <= before and child.is_alive() and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not out.exists()
        lines.append(here)
        kills += 1
    assert child.exitcode == 0
    assert lines == sorted(set(lines)), "each run went on from where the one before was killed"
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not noted.parent.exists()


def _lines(noted: Path) -> int:
    """What a run has noted; it is replaced as a whole, so that it can be read at any time."""
    try:
        return json.loads(noted.read_text())["state"]["place"]["lines"]
    except FileNotFoundError:
        return 0

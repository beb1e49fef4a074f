"""What a run finds at its input's and its output's places, and what it leaves there."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import threading
from decimal import Decimal

import polars as pl
import pytest
from test_bulk import histories
from test_bulk_run import left_behind, read, run

import genrec_fast as gf
from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.base.lock import NAME as LOCK_NAME
from genrec_fast.serving import answer_file
from genrec_fast.serving.answer_file import AnswerFile
from genrec_fast.serving.bulk_run import BulkConfig
from genrec_fast.serving.unfinished import Unfinished
from toy import toy_data, toy_recipe


@pytest.fixture(scope="module")
def model():
    return gf.train(toy_recipe(epochs=1), toy_data(), show_progress=False)


@pytest.fixture
def users(tmp_path):
    """A file of 150 lines."""
    path = tmp_path / "users.jsonl"
    lines = [json.dumps({"id": f"user {n}", "history_ids": row}) for n, row in enumerate(histories(150))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["users.jsonl", "users.parquet"])
def test_questions_that_change_meanwhile_are_noticed(model, users, tmp_path, monkeypatch, name):
    source, recommend, was = tmp_path / name, type(model).recommend, []
    if name.endswith("parquet"):
        pl.DataFrame({"history_ids": histories(150)}).write_parquet(source)
    before = source.read_bytes()
    run(model, source, tmp_path / "whole.jsonl")

    def changed(self, histories, *args, **options):
        if len(was) == 12:  # in the second window
            with source.open("ab") as file:
                file.write(b'{"history_ids": [5]}\n')
        was.append(histories)
        return recommend(self, histories, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "recommend", changed)
        with pytest.raises(DataError, match=f"--input must stay as it is while it is read, but .*{name} was changed"):
            run(model, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    source.write_bytes(before)
    assert run(model, source, tmp_path / "out.jsonl").lines == 150 - 32
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_questions_that_are_touched_meanwhile_are_the_same(model, users, tmp_path, monkeypatch):
    append = AnswerFile.append
    monkeypatch.setattr(AnswerFile, "append", lambda *given: (append(*given), os.utime(users, (given[2].lines, 1))))
    assert run(model, users, tmp_path / "out.jsonl").lines == 150


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_a_run_killed_once_its_output_was_there_is_no_obstacle(model, users, tmp_path, monkeypatch, name):
    def ended(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "remove", ended)
        with pytest.raises(KeyboardInterrupt):
            run(model, users, tmp_path / name)
    assert (tmp_path / f"{name}.unfinished").exists()
    (tmp_path / "others.jsonl").write_text('{"history_ids": [3]}\n')
    assert run(model, tmp_path / "others.jsonl", tmp_path / name).lines == 1
    assert left_behind(tmp_path, users) == {name, "others.jsonl"}


def test_a_table_that_is_being_written_leaves_nothing_beside_the_output(model, users, tmp_path, monkeypatch):
    run(model, users, tmp_path / "whole.parquet")
    seen = []

    def ended(lines, table, mark_types):
        table.write_bytes(b"half")
        seen.append(left_behind(tmp_path, users))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answer_file, "_write_table", ended)
        with pytest.raises(KeyboardInterrupt):
            run(model, users, tmp_path / "out.parquet")
    assert seen == [{"whole.parquet", "out.parquet.unfinished"}]
    assert run(model, users, tmp_path / "out.parquet").lines == 0
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert left_behind(tmp_path, users) == {"whole.parquet", "out.parquet"}


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_somebody_elses_is_left_alone(model, users, tmp_path, resume):
    precious = tmp_path / "out.jsonl.unfinished" / "precious"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(InvalidValueError, match=r"out.jsonl.unfinished must be free .* but it holds 'precious'"):
        run(model, users, tmp_path / "out.jsonl", BulkConfig(users_per_batch=4, show=False, resume=resume))
    assert [path.name for path in precious.parent.iterdir()] == ["precious"]


def test_what_somebody_else_puts_there_meanwhile_stays(model, users, tmp_path, monkeypatch):
    precious, append = tmp_path / "out.jsonl.unfinished" / "precious", AnswerFile.append
    monkeypatch.setattr(AnswerFile, "append", lambda *given: (append(*given), precious.write_text("mine")))
    run(model, users, tmp_path / "out.jsonl")
    assert [path.name for path in precious.parent.iterdir()] == ["precious"]


def test_a_link_stays_a_link_and_a_file_keeps_its_permissions(model, users, tmp_path):
    run(model, users, tmp_path / "whole.jsonl")
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "out.jsonl", tmp_path / "link.jsonl"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    run(model, users, link)
    assert link.is_symlink()
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    assert left_behind(target.parent) == {"out.jsonl"}


@pytest.mark.parametrize("name", ["pipe", "pipe.gz"])
def test_a_named_pipe_is_written_to(model, users, tmp_path, name):
    run(model, users, tmp_path / "whole.jsonl")
    pipe, got = tmp_path / name, []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert run(model, users, pipe).lines == 150
    reader.join()
    data = gzip.decompress(got[0]) if name.endswith("gz") else got[0]
    assert data == (tmp_path / "whole.jsonl").read_bytes()
    assert pipe.is_fifo()
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(InvalidValueError, match=r"--output must be a file to be Parquet, got .*pipe.parquet"):
        run(model, users, tmp_path / "pipe.parquet")


def test_a_column_of_any_type_is_its_lines_error(model, tmp_path):
    frame = pl.DataFrame(
        {"history_ids": [[4], [5], [6]], "k": [None, Decimal(2), None], "allowed": [None, None, [b"4"]]}
    )
    frame.write_parquet(tmp_path / "users.parquet")
    assert run(model, tmp_path / "users.parquet", tmp_path / "out.jsonl").tally.failed == 2
    assert [answer.get("line") for answer in read(tmp_path / "out.jsonl")] == [None, 2, 3]


def test_a_table_has_the_ids_of_the_lines(model, tmp_path):
    lines = [{"id": n, "user": n if n else "Ann", "history_ids": [3]} for n in range(100)]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(model, tmp_path / "users.jsonl", tmp_path / "out.parquet")
    table = pl.read_parquet(tmp_path / "out.parquet")
    assert table["id"].to_list() == list(range(100))
    assert table["user"].to_list() == ["Ann", *map(str, range(1, 100))]
    (tmp_path / "users.jsonl").write_text('{"id": "a\\ud800b\\ud83d\\ude00", "history_ids": [3]}\n{"id": true}\n')
    run(model, tmp_path / "users.jsonl", tmp_path / "texts.parquet")
    assert pl.read_parquet(tmp_path / "texts.parquet")["id"].to_list() == ["a\ufffdb\U0001f600", None]


def test_a_worker_that_still_writes_is_no_hindrance(tmp_path):
    """A worker that was told to stop may be in the midst of a part when its folder is removed."""
    with Unfinished(tmp_path / "out.parquet", {"input": "1"}) as unfinished:
        unfinished.note({})
        parts, late = unfinished.folder / "parts", threading.Event()
        parts.mkdir()

        def write():
            number = 0
            while not late.is_set():
                number += 1
                with contextlib.suppress(OSError):  # no such folder any more
                    (parts / f"part-{number:06d}.parquet").write_bytes(b"half")

        worker = threading.Thread(target=write)
        worker.start()
        try:
            while len(list(parts.iterdir())) < 200:
                pass
            unfinished.remove()
        finally:
            late.set()
            worker.join()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_was_removing_goes_with_the_next(tmp_path):
    with Unfinished(tmp_path / "out.parquet", {"input": "1"}) as unfinished:
        unfinished.note({})
        for name in ("going", "parts"):
            (unfinished.folder / name).mkdir()
            (unfinished.folder / name / "part-000000.parquet").write_bytes(b"half")
    with Unfinished(tmp_path / "out.parquet", {"input": "2"}, resume=False) as unfinished:
        assert unfinished.state == {}
        assert sorted(path.name for path in unfinished.folder.iterdir()) == [LOCK_NAME]

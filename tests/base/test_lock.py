from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genrec_fast.base import lock
from genrec_fast.base.errors import FolderInUseError, MissingFolderError, StorageError, UnlockedFolderWarning
from genrec_fast.base.lock import FolderLock

# With what it does: "train" or "save".
HOLDS = """
import sys, time
from pathlib import Path
from genrec_fast.base.lock import FolderLock
with FolderLock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder, op="train"):
    """Another process that has the folder; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(folder), op], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


def test_another_process_is_refused_by_name_until_it_is_killed(tmp_path):
    with holder(tmp_path) as child:
        asked = FolderLock(tmp_path, "train")
        with pytest.raises(FolderInUseError, match=rf"^train: .* one writer at a time, got process {child.pid} on "):
            asked.__enter__()
    assert (tmp_path / ".lock").exists()
    with FolderLock(tmp_path, "train") as held:
        held.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"{}", b'{"pid": "x", "host": 1, "op": 2}', b"[1]"])
def test_a_lock_file_of_any_content_is_no_obstacle(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    with FolderLock(tmp_path, "train"):
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(FolderInUseError, match="got another process"), FolderLock(tmp_path, "train"):
            pass
    assert (tmp_path / ".lock").read_bytes() == content  # whoever wrote it has it now


def test_who_waits_gets_it(tmp_path):
    with holder(tmp_path, "save") as child:
        threading.Timer(0.2, child.kill).start()
        with FolderLock(tmp_path, "save", wait_s=30.0):
            assert child.wait() != 0


def test_a_folder_that_is_gone_or_taken_is_noticed_before_a_write(tmp_path):
    folder = tmp_path / "runs" / "a"
    with FolderLock(folder, "train") as held:
        held.check()
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(MissingFolderError, match=r"must stay while it is written to, but it is gone; put it back"):
            held.check()
        with FolderLock(folder, "train"), pytest.raises(FolderInUseError, match=rf"taken by process {os.getpid()} on"):
            held.check()
        folder.rmdir()
        (tmp_path / "elsewhere").rename(folder)
        held.check()


def test_a_file_system_without_locks_warns_and_the_last_who_came_has_the_folder(tmp_path, monkeypatch):
    def none(_descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_lock", none)
    with pytest.warns(UnlockedFolderWarning, match="cannot be locked .* no other process writes"):
        first = FolderLock(tmp_path, "train").__enter__()
    first.check()
    with pytest.warns(UnlockedFolderWarning):
        second = FolderLock(tmp_path, "train").__enter__()
    with pytest.raises(FolderInUseError, match="it was taken by process"):
        first.check()
    second.check()
    for held in (first, second):
        held.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "a", "Not a directory")):
        with pytest.raises(StorageError, match=rf"^train: .*file.* must be written, got: {reason}; choose a folder"):
            FolderLock(Path(folder), "train").__enter__()

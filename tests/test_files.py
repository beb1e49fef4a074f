from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genrec_fast.base.errors import StorageError
from genrec_fast.base.files import atomic_path, write_text


def test_a_file_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "ä\n")
    assert (tmp_path / "a.json").read_bytes() == "ä\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".json"
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder of .* must exist, got .*nowhere"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_files_are_as_private_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        target = tmp_path / "weights.safetensors"
        with atomic_path(target) as temporary:
            save_file({"a": torch.zeros(2)}, temporary)  # safetensors alone makes files that only their owner reads
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.json", tmp_path / "link.json"
    link.symlink_to(target)
    for text in ("new", "newer"):  # at first it points to nothing
        write_text(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_a_file_keeps_its_permissions(tmp_path, mode):
    target = tmp_path / "a.json"
    target.write_text("old")
    target.chmod(mode)
    with atomic_path(target) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) & 0o077 == mode & 0o077, "nobody else reads what is written"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_pipe_is_not_replaced(tmp_path):
    target = tmp_path / "pipe"
    os.mkfifo(target)
    with pytest.raises(StorageError, match=r"write: .*pipe must be a file or a new name, got a device or a pipe"):
        write_text(target, "x")
    assert target.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]

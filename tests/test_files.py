from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError
from genrec_fast.data.feature_file import FeatureFile


def saved(path, array, **how):
    np.save(path, array, **how)
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f2"])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_blocks_are_the_rows_in_order(tmp_path, dtype, rows):
    array = np.random.default_rng(0).standard_normal((7, 5)).astype(dtype)
    file = FeatureFile(saved(tmp_path / "a.npy", array))
    assert (file.num_rows, file.width) == (7, 5)
    blocks = list(file.blocks(rows))
    assert [len(block) for block in blocks] == [min(rows, 7 - start) for start in range(0, 7, rows)]
    assert all(block.dtype == torch.float32 for block in blocks)
    assert torch.equal(torch.cat(blocks), torch.from_numpy(array.astype(np.float32)))
    assert torch.equal(torch.cat(list(file.blocks(2, first=1, last=6))), torch.cat(blocks)[1:6])


def test_bfloat16_as_numpy_writes_it(tmp_path):
    values = torch.randn(4, 3).bfloat16()
    raw = values.view(torch.int16).numpy().view("V2")
    (block,) = FeatureFile(saved(tmp_path / "a.npy", raw)).blocks()
    assert torch.equal(block, values.float())


def test_no_rows_one_column_and_older_headers(tmp_path):
    assert list(FeatureFile(saved(tmp_path / "a.npy", np.empty((0, 3), np.float32))).blocks()) == []
    file = FeatureFile(saved(tmp_path / "b.npy", np.asfortranarray(np.ones((3, 1), np.float32))))
    assert next(file.blocks()).tolist() == [[1.0]] * 3
    with (tmp_path / "c.npy").open("wb") as out:
        np.lib.format.write_array(out, np.ones((2, 2), np.float32), version=(2, 0))
    assert next(FeatureFile(tmp_path / "c.npy").blocks()).tolist() == [[1.0, 1.0]] * 2
    wide = FeatureFile(saved(tmp_path / "d.npy", np.ones((1, 768), np.float32)))
    assert wide.default_rows() % 1024 == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_row_that_is_not_finite_is_named(tmp_path, value):
    array = np.zeros((50, 4))
    array[33, 2] = value
    file = gf.data.FeatureFile(saved(tmp_path / "a.npy", array))
    with pytest.raises(DataError, match=r"a.npy: row 33 holds a value that is not finite in float32"):
        list(file.blocks(10))
    assert len(list(file.blocks(10, first=40))) == 1


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.ones(3, np.float32), r"must be \[N, F\] with F at least 1, got \[3\]"),
        (np.ones((3, 0), np.float32), r"got \[3, 0\]"),
        (np.ones((1, 2, 3), np.float32), r"got \[1, 2, 3\]"),
        (np.ones((3, 2), np.int32), "must be float16, float32, float64 or bfloat16, got int32"),
        (np.ones((3, 2), np.complex64), "got complex64"),
        (np.asfortranarray(np.ones((3, 2), np.float32)), r"must be in C order .* got Fortran order"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, text):
    with pytest.raises(DataError, match=text):
        FeatureFile(saved(tmp_path / "a.npy", array))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(DataError, match=r"a.npy: cannot be read: No such file"):
        FeatureFile(path)
    for wrong in (None, 3, np.ones((2, 2), np.float32)):
        with pytest.raises(InvalidTypeError, match=f"path must name a .npy file, got {type(wrong).__name__}"):
            FeatureFile(wrong)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        FeatureFile(tmp_path)
    whole = saved(path, np.ones((30, 5), np.float32)).read_bytes()
    for size in (0, 5, 9, 60, 100):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a.npy: not a .npy array"):
            FeatureFile(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"cut short: 30 rows need {len(whole)} bytes, got {len(whole) - 1}"):
        FeatureFile(path)
    path.write_bytes(whole.replace(b"(30, 5)", b"(-3, 5)"))
    with pytest.raises(DataError, match=r"must be \[N, F\]"):
        FeatureFile(path)
    np.savez(tmp_path / "b.npz", a=np.ones((2, 2)))
    with pytest.raises(DataError, match=r"not a .npy array"):
        FeatureFile(tmp_path / "b.npz")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = saved(tmp_path / "a.npy", np.ones((30, 5), np.float32))
    blocks = FeatureFile(path).blocks(10)
    next(blocks)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 5 * 20 - 3)
    next(blocks)
    with pytest.raises(DataError, match="cut short while it was read: it ends in row 24"):
        list(blocks)


def test_rows_whose_sum_leaves_float32_are_read(tmp_path):
    array = np.full((5, 4), 3e38, np.float32)
    assert torch.equal(next(FeatureFile(saved(tmp_path / "a.npy", array)).blocks()), torch.from_numpy(array))


def test_rows_and_blocks_are_checked(tmp_path):
    file = FeatureFile(saved(tmp_path / "a.npy", np.ones((3, 5), np.float32)))
    with pytest.raises(InvalidValueError, match="rows_per_block must be at least 1, got 0"):
        file.blocks(0)
    with pytest.raises(InvalidValueError, match=r"rows must be within \[0, 3\], got \[2, 4\)"):
        file.blocks(first=2, last=4)


def test_the_identity_follows_contents_and_time(tmp_path):
    path = saved(tmp_path / "a.npy", np.zeros((30, 5), np.float32))
    before, stat = FeatureFile(path).identity(), path.stat()
    assert FeatureFile(path).identity() == before
    saved(path, np.ones((30, 5), np.float32))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = FeatureFile(path).identity()
    assert changed != before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    assert FeatureFile(path).identity() != changed

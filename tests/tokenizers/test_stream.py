"""Files of vectors to files of codes: equal to one call, resumable, within bounded memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import genrec_fast as gf
from genrec_fast.base import errors
from genrec_fast.ops.kmeans_step import kmeans_step
from genrec_fast.ops.reference.rq_encode import rq_encode
from genrec_fast.tokenizers import RandomConfig, RQKMeansConfig, encode_file, kmeans_step_file
from genrec_fast.tokenizers.formats import files
from shared.catalogs import wide


@pytest.fixture
def features():
    return torch.randn(300, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def books():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(9, 6, generator=generator), torch.randn(5, 6, generator=generator) / 2]


@pytest.fixture
def source(tmp_path, features):
    np.save(tmp_path / "x.npy", features.numpy())
    return tmp_path / "x.npy"


def codes_in(path):
    codes = np.load(path)
    assert codes.dtype == np.int32
    return torch.from_numpy(codes)


@pytest.mark.parametrize("rows", [None, 1000, 300, 64, 7])
def test_codes_equal_one_call(tmp_path, source, features, books, rows):
    seen = []
    progress = lambda *now: seen.append(now)  # noqa: E731
    out = encode_file(books, source, tmp_path / "codes.npy", rows_per_block=rows, progress=progress)
    assert out == tmp_path / "codes.npy"
    assert torch.equal(codes_in(out), rq_encode(features, books))
    assert [done for _, done, _, _ in seen] == [*range(rows or 300, 300, rows or 300), 300]
    assert all(what == "encode" and total == 300 and figures["rows_per_second"] > 0 for what, _, total, figures in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npy", "x.npy"]


def test_beams_and_precision_are_those_of_rq_encode(tmp_path, source, features, books):
    out = encode_file(books, source, tmp_path / "codes.npy", rows_per_block=100, num_beams=3)
    beams = rq_encode(features, books, num_beams=3)
    assert torch.equal(codes_in(out), beams)
    encode_file(books, source, out, precision="bfloat16")
    assert torch.equal(codes_in(out), rq_encode(features, books))
    assert not torch.equal(codes_in(out), beams)
    with pytest.raises(errors.InvalidValueError, match="rq_encode: num_beams must be at least 1, got 0"):
        encode_file(books, source, out, num_beams=0)
    tokenizer = RQKMeansConfig(codebook_sizes=(8,)).build(wide(6))
    with pytest.raises(errors.InvalidValueError, match="encode_file: num_beams and precision must be left to the tok"):
        encode_file(tokenizer, source, out, precision="bfloat16")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(tmp_path, features, books, dtype):
    array = features.numpy().astype(dtype)
    np.save(tmp_path / "y.npy", array)
    expected = rq_encode(torch.from_numpy(array.astype(np.float32)), books)
    assert torch.equal(codes_in(encode_file(books, tmp_path / "y.npy", tmp_path / "codes.npy")), expected)


def test_a_tokenizer_and_its_catalog(tmp_path, source, features):
    tokenizer = RQKMeansConfig(codebook_sizes=(8, 8), iterations=2, normalize=True).build(wide(6))
    with pytest.raises(errors.InvalidValueError, match="rqkmeans: item_codes must come from fit or load"):
        encode_file(tokenizer, source, tmp_path / "codes.npy")
    tokenizer.fit(features)
    out = encode_file(tokenizer, source, tmp_path / "codes.npy", rows_per_block=37)
    assert torch.equal(codes_in(out), tokenizer.item_codes[:, :2])
    control = RandomConfig(codebook_sizes=(8, 8)).build(wide(None))
    control.fit(num_items=20)
    with pytest.raises(errors.UnsupportedError, match="encode_file: tokenizer must be one of feature vectors"):
        encode_file(control, source, out)
    assert torch.equal(codes_in(out), tokenizer.item_codes[:, :2])


def test_no_rows(tmp_path, books):
    np.save(tmp_path / "none.npy", np.empty((0, 6), np.float32))
    assert codes_in(encode_file(books, tmp_path / "none.npy", tmp_path / "codes.npy")).shape == (0, 2)


def stopped(after, error=KeyboardInterrupt):
    def progress(what, done, total, figures):
        if done >= after:
            raise error

    return progress


def first_of(seen):
    return lambda what, done, total, figures: seen.append(done)


def test_a_stopped_run_goes_on_where_it_stood(tmp_path, source, features, books):
    out = tmp_path / "codes.npy"
    with pytest.raises(KeyboardInterrupt):
        encode_file(books, source, out, rows_per_block=50, progress=stopped(150))
    assert not out.exists()
    seen = []
    encode_file(books, source, out, rows_per_block=100, progress=first_of(seen))
    assert seen == [250, 300]
    assert torch.equal(codes_in(out), rq_encode(features, books))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npy", "x.npy"]


def test_a_killed_run_goes_on_behind_its_last_note(tmp_path, source, features, books, monkeypatch):
    monkeypatch.setattr(files, "_RECORD_SECONDS", -1.0)
    with pytest.raises(RuntimeError):  # unlike KeyboardInterrupt it leaves no note of its own, as a kill would
        encode_file(books, source, tmp_path / "codes.npy", rows_per_block=50, progress=stopped(150, RuntimeError))
    (codes,) = tmp_path.glob(".codes.*.npy")
    with codes.open("ab") as file:
        file.write(b"half a block")
    seen = []
    encode_file(books, source, tmp_path / "codes.npy", rows_per_block=50, progress=first_of(seen))
    assert seen == [200, 250, 300]
    assert torch.equal(codes_in(tmp_path / "codes.npy"), rq_encode(features, books))


@pytest.mark.parametrize("change", ["codebooks", "source", "codes", "note", "cut"])
def test_what_has_changed_is_encoded_anew(tmp_path, source, features, books, change):
    out = tmp_path / "codes.npy"
    with pytest.raises(KeyboardInterrupt):
        encode_file(books, source, out, rows_per_block=50, progress=stopped(150))
    (codes,), (note,) = tmp_path.glob(".codes.*.npy"), tmp_path.glob(".codes.*.json")
    if change == "codebooks":
        books[1] = books[1].clone()
        books[1][4, 5] += 1
    elif change == "source":
        features = features.clone()
        features[0, 0] += 1
        np.save(source, features.numpy())
    elif change == "codes":
        raw = bytearray(codes.read_bytes())
        raw[200] ^= 1
        codes.write_bytes(raw)
    elif change == "note":
        note.write_text('{"rows": 3}')
    else:
        codes.write_bytes(codes.read_bytes()[:300])
    seen = []
    encode_file(books, source, out, rows_per_block=50, progress=first_of(seen))
    assert seen[0] == 50
    assert torch.equal(codes_in(out), rq_encode(features, books))


def test_a_row_that_is_not_finite_is_named_and_leaves_nothing(tmp_path, features, books):
    features[222, 1] = torch.nan
    np.save(tmp_path / "x.npy", features.numpy())
    (tmp_path / "codes.npy").write_bytes(b"old")
    with pytest.raises(errors.DataError, match=r"x.npy: row 222 holds a value that is not finite"):
        encode_file(books, tmp_path / "x.npy", tmp_path / "codes.npy", rows_per_block=50)
    assert (tmp_path / "codes.npy").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npy", "x.npy"]


def test_a_source_that_is_written_to_meanwhile_is_noticed(tmp_path, source, features, books):
    def change(what, done, total, figures):
        if done == 100:
            np.save(source, features.flip(0).numpy())

    with pytest.raises(errors.DataError, match=r"x.npy: must stay as it is while it is encoded"):
        encode_file(books, source, tmp_path / "codes.npy", rows_per_block=50, progress=change)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_bad_arguments_are_named(tmp_path, source, books):
    out = tmp_path / "codes.npy"
    with pytest.raises(errors.InvalidValueError, match=r"encode_file: source must be \[N, 5\], got \[300, 6\]"):
        encode_file([torch.ones(3, 5)], source, out)
    with pytest.raises(errors.InvalidValueError, match=r"encode_file: out must end in .npy, got 'codes.bin'"):
        encode_file(books, source, tmp_path / "codes.bin")
    with pytest.raises(errors.InvalidValueError, match="encode_file: out must be another file than the source"):
        encode_file(books, source, source)
    with pytest.raises(FileNotFoundError, match="encode_file: the folder of"):
        encode_file(books, source, tmp_path / "nowhere" / "codes.npy")
    with pytest.raises(errors.InvalidValueError, match="encode_file: rows_per_block must be at least 1, got 0"):
        encode_file(books, source, out, rows_per_block=0)
    for wrong in ([], [[1.0]], 3, None, [torch.ones(3)]):
        with pytest.raises(errors.InvalidTypeError, match="encode_file: tokenizer must be a Tokenizer or a sequence"):
            encode_file(wrong, source, out)
    assert not out.exists()


def test_a_lloyd_step_over_a_file_has_the_bits_of_one_call(tmp_path, books):
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(2))
    np.save(tmp_path / "x.npy", x.numpy())
    for before in ([], books):
        expected = kmeans_step(files.residuals(x, before), books[0])
        found = kmeans_step_file(tmp_path / "x.npy", books[0], codebooks=before, rows_per_block=1024)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    with pytest.raises(errors.InvalidValueError, match=r"kmeans_step: centroids must be \[K, 6\]"):
        kmeans_step_file(tmp_path / "x.npy", torch.ones(2, 5))


MEMORY = """
import resource, sys
import numpy, torch
from genrec_fast.tokenizers import encode_file
torch.set_num_threads(1)
source, small, out = sys.argv[1:]
books = [torch.randn(4, 768, generator=torch.Generator().manual_seed(0))]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
numpy.save(small, numpy.zeros((6000, 768), numpy.float16))
encode_file(books, small, out)
before = peak()
encode_file(books, source, out)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone, and the file is sparse there")
def test_memory_does_not_grow_with_the_file(tmp_path):
    rows, width = 200_000, 768  # 293 MiB as float16, twice that as float32
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (rows, width)})
        file.truncate(file.tell() + rows * width * 2)
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / name) for name in ("x.npy", "small.npy", "codes.npy"))]
    environment = {"PYTHONPATH": str(Path(gf.__file__).parent.parent), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64
    assert np.load(tmp_path / "codes.npy", mmap_mode="r").shape == (rows, 1)


def test_a_full_disk_keeps_what_is_done(tmp_path, source, features, books, monkeypatch):
    monkeypatch.setattr(files, "_RECORD_SECONDS", -1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(what, done, total, figures):
        if done == 150:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4 * len(books) * 180, before[1]))

    try:
        with pytest.raises(errors.StorageError, match=r"^encode_file: .* must be written, got: File too large"):
            encode_file(books, source, tmp_path / "codes.npy", rows_per_block=50, progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    seen = []
    encode_file(books, source, tmp_path / "codes.npy", rows_per_block=50, progress=first_of(seen))
    assert seen == [200, 250, 300]
    assert torch.equal(codes_in(tmp_path / "codes.npy"), rq_encode(features, books))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npy", source.name]

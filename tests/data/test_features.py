from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from genrec_fast import data
from genrec_fast.base.errors import DataError, InvalidTypeError, InvalidValueError, UnsupportedError


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npy_of_any_float_becomes_float32(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4.5]], dtype=dtype))
    features = data.read_features(tmp_path / "a.npy")
    assert features.dtype == torch.float32
    assert features.tolist() == [[1, 2], [3, 4.5]]


def test_save_and_read_again(tmp_path):
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    data.save_features(tmp_path / "item_embeddings.f16.npy", features)
    assert torch.equal(data.read_features(tmp_path / "item_embeddings.f16.npy"), features.half().float())
    assert [p.name for p in tmp_path.iterdir()] == ["item_embeddings.f16.npy"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan], [2, 3]]), r"a.npy: row 0 holds a value that is not finite"),
        (np.array([[1.0, 2], [2, 1e300]]), r"a.npy: row 1 holds a value that is not finite"),
        (np.array([[1, 2]]), r"must be float16, float32 or float64 \[items, F\], got int64 \[1, 2\]"),
        (np.array([1.0, 2]), r"must be float16, float32 or float64 \[items, F\], got float64 \[2\]"),
        (np.array([[{}]], dtype=object), r"a.npy: not a .npy array: "),
    ],
)
def test_wrong_npy_is_named(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        data.read_features(tmp_path / "a.npy")


def test_npy_cut_short_archive_or_missing(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((9, 9)))
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:300])
    with (tmp_path / "c.npy").open("wb") as file:
        np.savez(file, np.zeros((2, 2)))
    for name, message in [
        ("b", "not a .npy array"),
        ("c", "archive of arrays"),
        ("d", "cannot be read: No such file or directory"),
    ]:
        with pytest.raises(DataError, match=message):
            data.read_features(tmp_path / f"{name}.npy")


def test_save_refuses_what_would_not_come_back(tmp_path):
    with pytest.raises(InvalidValueError, match=r"path must end in .npy, got 'a.txt'"):
        data.save_features(tmp_path / "a.txt", torch.zeros(1, 1))
    with pytest.raises(InvalidTypeError, match=r"features must be a float tensor, got torch.int64"):
        data.save_features(tmp_path / "a.npy", torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match=r"must be \[N, F\] and finite in float16, got \[1, 1\]"):
        data.save_features(tmp_path / "a.npy", torch.full((1, 1), 1e6))
    assert list(tmp_path.iterdir()) == []


class FakeEncoder:
    """Length and number of spaces of a text; remembers how it was called."""

    def __init__(self, folder, device, local_files_only):
        assert local_files_only
        self.folder, self.device = folder, device

    def encode(self, texts, **options):
        FakeEncoder.options = options
        return torch.tensor([[len(t), t.count(" ")] for t in texts], dtype=torch.float64)


@pytest.fixture
def model_folder(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    return tmp_path


def test_texts_go_to_the_local_encoder(monkeypatch, model_folder):
    fake = types.SimpleNamespace(SentenceTransformer=FakeEncoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    features = data.encode_texts(["a b", "abc"], model_folder, batch_size=7, progress=False)
    assert features.dtype == torch.float32
    assert features.tolist() == [[3, 1], [3, 0]]
    assert FakeEncoder.options["batch_size"] == 7
    assert FakeEncoder.options["normalize_embeddings"] is True


def test_missing_extra_names_the_command(monkeypatch, model_folder):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'genrec-fast\[text\]'"):
        data.encode_texts(["a"], model_folder)


def test_folder_without_a_model_and_no_texts(tmp_path):
    with pytest.raises(DataError, match=r"model_folder must be a folder with a sentence-transformers model"):
        data.encode_texts(["a"], tmp_path)
    with pytest.raises(InvalidValueError, match="texts must not be empty"):
        data.encode_texts([], tmp_path)


def test_vectors_that_are_not_finite(monkeypatch, model_folder):
    class Broken(FakeEncoder):
        def encode(self, texts, **options):
            return torch.tensor([[0.0], [float("nan")]])

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Broken))
    with pytest.raises(DataError, match="that of text 1 is not"):
        data.encode_texts(["a", "b"], model_folder)

"""What every tokenizer must show; a test file joins by subclassing ``TokenizerSuite``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.tokenizers import encode_file, load
from shared.catalogs import wide


class TokenizerSuite:
    """Override ``config`` (from a folder for files)."""

    items = 50
    random = True  # another seed gives other codes
    smallest = 8  # rows that fit asks for
    reads_features = True  # encode and decode have a meaning

    def config(self, folder):
        raise NotImplementedError

    def features(self):
        return torch.randn(self.items, 6, generator=torch.Generator().manual_seed(0))

    def histories(self):
        """40 users of 6 items each, near one another in the list."""
        starts = torch.arange(40)[:, None] * 5 // 4
        return Jagged.from_lengths(((starts + torch.arange(6)) % self.items).flatten(), torch.full((40,), 6))

    def fitted(self, folder, seed=0):
        tokenizer = self.config(folder).build(wide(6))
        fit = {"num_items": self.items, "seed": seed, "histories": self.histories()}
        assert tokenizer.fit(self.features(), **fit) is None
        return tokenizer

    def test_every_item_has_codes_inside_the_codebooks(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        codes, sizes = tokenizer.item_codes, tokenizer.codebook_sizes
        assert codes.dtype == torch.int32
        assert tuple(codes.shape) == (self.items, len(sizes))
        assert bool((codes >= 0).all())
        assert bool((codes < torch.tensor(sizes)).all())
        assert build_trie(codes, codebook_sizes=sizes).num_items == self.items

    def test_it_tells_what_was_done_about_equal_codes(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        dedup = getattr(tokenizer.config, "dedup", None)
        assert (tokenizer.resolution is None) == (dedup is None)
        if tokenizer.resolution is not None:
            assert (tokenizer.resolution.method, tokenizer.resolution.num_items) == (dedup, self.items)
            added = len(tokenizer.codebook_sizes) - len(getattr(tokenizer.config, "sizes", tokenizer.codebook_sizes))
            assert not added or tokenizer.resolution.level_added == tokenizer.codebook_sizes[-1]

    def test_the_seed_decides(self, tmp_path):
        first = self.fitted(tmp_path).item_codes
        torch.randn(3)  # nothing depends on torch's global generator
        assert torch.equal(first, self.fitted(tmp_path).item_codes)
        other = self.fitted(tmp_path, seed=1).item_codes
        assert (first.shape == other.shape and torch.equal(first, other)) != self.random

    def test_a_saved_tokenizer_comes_back_whole(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        tokenizer.save(tmp_path / "tok.safetensors")
        again = type(tokenizer).load(tmp_path / "tok.safetensors")
        assert torch.equal(again.item_codes, tokenizer.item_codes)
        assert again.codebook_sizes == tokenizer.codebook_sizes
        assert again.config == tokenizer.config
        assert again.report() == tokenizer.report()
        assert again.resolution == tokenizer.resolution
        assert not list(tmp_path.glob(".*"))  # no temporary file stays

    def test_load_finds_the_kind_in_the_file(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        tokenizer.save(tmp_path / "tok.safetensors")
        again = load(tmp_path / "tok.safetensors")
        assert type(again) is type(tokenizer)
        assert torch.equal(again.item_codes, tokenizer.item_codes)
        if self.reads_features:
            assert torch.equal(again.encode(self.features()), tokenizer.encode(self.features()))

    def test_progress_is_told(self, tmp_path):
        told = []
        tokenizer = self.config(tmp_path).build(wide(6))
        fit = {"num_items": self.items, "histories": self.histories()}
        tokenizer.fit(self.features(), progress=lambda *arguments: told.append(arguments), **fit)
        assert told
        for what, done, total, figures in told:
            assert isinstance(what, str)
            assert 0 <= done <= total
            assert all(isinstance(value, float) for value in figures.values())
        silent = self.config(tmp_path).build(wide(6))
        silent.fit(self.features(), **fit)
        assert torch.equal(tokenizer.item_codes, silent.item_codes)  # watching changes nothing

    def test_the_number_of_threads_changes_nothing(self, tmp_path, threads):
        codes = []
        for count in (1, 3):
            threads(count)
            codes.append(self.fitted(tmp_path).item_codes)
        assert torch.equal(*codes)

    def test_encode_gives_the_codes_of_the_catalog(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        if not self.reads_features:
            with pytest.raises(UnsupportedError, match=f"{tokenizer.kind}: encode needs a tokenizer of feature"):
                tokenizer.encode(self.features())
            return
        codes = tokenizer.encode(self.features())
        assert codes.dtype == torch.int32
        assert torch.equal(codes, tokenizer.item_codes[:, : codes.shape[1]])
        assert tokenizer.encode(self.features()[:0]).shape == (0, codes.shape[1])
        assert torch.equal(tokenizer.encode(self.features()[7:8]), codes[7:8])  # a row is independent of the others
        with pytest.raises(InvalidValueError, match=rf"{tokenizer.kind}: features must be \[N, 6\], got \[2, 5\]"):
            tokenizer.encode(torch.zeros(2, 5))
        with pytest.raises(InvalidTypeError, match=f"{tokenizer.kind}: features must be a float tensor"):
            tokenizer.encode(torch.zeros(2, 6, dtype=torch.int64))

    def test_decode_takes_prefixes(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        if not self.reads_features:
            with pytest.raises(UnsupportedError, match=f"{tokenizer.kind}: decode needs a tokenizer of feature"):
                tokenizer.decode(tokenizer.item_codes)
            return
        levels = tokenizer.encode(self.features()).shape[1]
        for length in range(1, tokenizer.item_codes.shape[1] + 1):
            vectors = tokenizer.decode(tokenizer.item_codes[:, :length])
            assert vectors.dtype == torch.float32
            assert tuple(vectors.shape) == (self.items, 6)
            assert bool(vectors.isfinite().all())
        assert torch.equal(vectors, tokenizer.decode(tokenizer.item_codes[:, :levels]))  # a dedup level is not read
        assert tokenizer.decode(tokenizer.item_codes[:0]).shape == (0, 6)
        with pytest.raises(InvalidValueError, match=rf"{tokenizer.kind}: codes must be \[m, 1 to \d+\], got \[3\]"):
            tokenizer.decode(torch.zeros(3, dtype=torch.int64))
        for dtype in (torch.float32, torch.bool, torch.complex64, torch.uint16):
            with pytest.raises(InvalidTypeError, match=rf"{tokenizer.kind}: codes must be integers .*, got {dtype}"):
                tokenizer.decode(torch.zeros(3, levels, dtype=dtype))
        with pytest.raises(InvalidTypeError, match=rf"{tokenizer.kind}: codes must be integers \[m, t\], got list"):
            tokenizer.decode(tokenizer.item_codes.tolist())
        with pytest.raises(InvalidTypeError, match=f"{tokenizer.kind}: codes must be a dense tensor with data"):
            tokenizer.decode(tokenizer.item_codes.to_sparse())
        size = tokenizer.codebook_sizes[0]
        for code in (-1, size):
            wrong = tokenizer.item_codes.clone()
            wrong[4, 0] = code
            with pytest.raises(
                InvalidValueError,
                match=rf"{tokenizer.kind}: codes of level 0 must be in \[0, {size}\), got {code} in row 4",
            ):
                tokenizer.decode(wrong)

    def test_a_row_that_is_not_finite_is_named(self, tmp_path):
        if not self.reads_features:
            return
        for value in (float("nan"), float("inf")):
            features = self.features()
            features[7, 2] = value
            tokenizer = self.config(tmp_path).build(wide(6))
            with pytest.raises(
                InvalidValueError, match=f"{tokenizer.kind}: features must be finite, got NaN or infinity in row 7"
            ):
                tokenizer.fit(features)

    def test_a_catalog_smaller_than_a_codebook(self, tmp_path):
        """Too few rows are named, or coded like any others; never anything else."""
        if not self.reads_features:
            return
        tokenizer = self.config(tmp_path).build(wide(6))
        if self.smallest > 1:
            with pytest.raises(
                InvalidValueError, match=f"{tokenizer.kind}: features must have at least {self.smallest} rows.*, got 1"
            ):
                tokenizer.fit(self.features()[:1], histories=Jagged.from_rows([[0], [0, 0]]))
            return
        tokenizer.fit(self.features()[:1], histories=Jagged.from_rows([[0], [0, 0]]))
        assert tokenizer.item_codes.shape == (1, len(tokenizer.codebook_sizes))
        assert bool(tokenizer.decode(tokenizer.item_codes).isfinite().all())

    def test_equal_vectors_are_told_apart_by_the_dedup_level(self, tmp_path):
        if not self.reads_features:
            return
        tokenizer = self.config(tmp_path).build(wide(6))
        tokenizer.fit(torch.ones(self.items, 6))
        codes, sizes = tokenizer.item_codes, tokenizer.codebook_sizes
        assert len(codes.unique(dim=0)) == self.items
        assert bool(((codes >= 0) & (codes < torch.tensor(sizes))).all())
        assert bool(tokenizer.decode(codes).isfinite().all())

    def test_an_altered_or_short_file_is_named(self, tmp_path):
        tokenizer, path = self.fitted(tmp_path), tmp_path / "tok.safetensors"
        tokenizer.save(path)
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[-1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CorruptFileError, match=rf"{tokenizer.kind}: checksum of .*tok.safetensors must be sha256"):
            type(tokenizer).load(path)
        path.write_bytes(whole[:-3])
        with pytest.raises(CorruptFileError, match=rf"{tokenizer.kind}: .*tok.safetensors must be a whole tokenizer"):
            type(tokenizer).load(path)
        path.write_bytes(whole)
        save_file(load_file(path), path, {"kind": "else"})
        with pytest.raises(CorruptFileError, match=rf"kind in .* must be genrec_fast.tokenizer.{tokenizer.kind}, got"):
            type(tokenizer).load(path)
        with pytest.raises(FileNotFoundError, match="path must name a file, got"):
            type(tokenizer).load(tmp_path / "no")

    def test_a_file_of_vectors_is_coded_like_the_tensor(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        np.save(tmp_path / "vectors.npy", self.features().numpy())
        try:
            expected = tokenizer.encode(self.features())
        except UnsupportedError:
            with pytest.raises(UnsupportedError):
                encode_file(tokenizer, tmp_path / "vectors.npy", tmp_path / "codes.npy")
            return
        codes = torch.from_numpy(np.load(encode_file(tokenizer, tmp_path / "vectors.npy", tmp_path / "codes.npy")))
        assert torch.equal(codes, expected)
        assert tokenizer.encode(self.features()[:0]).shape == (0, expected.shape[1])
        assert torch.equal(tokenizer.encode(self.features()[:1]), expected[:1])

    def test_nothing_is_known_before_fit(self, tmp_path):
        tokenizer = self.config(tmp_path).build(wide(6))
        with pytest.raises(InvalidValueError, match=f"{tokenizer.kind}: item_codes must come from fit or load"):
            _ = tokenizer.item_codes
        with pytest.raises(InvalidValueError, match=f"{tokenizer.kind}: codebook_sizes must come from fit or load"):
            _ = tokenizer.codebook_sizes

    def test_the_number_of_items_is_checked(self, tmp_path):
        tokenizer = self.config(tmp_path).build(wide(6))
        with pytest.raises(InvalidValueError, match="features must have a row for each of 51 items, got 50"):
            tokenizer.fit(self.features(), num_items=51)

    def test_settings_are_frozen(self, tmp_path):
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.config(tmp_path).anything = 1

"""What every tokenizer must show; a test file joins by subclassing ``TokenizerSuite``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genrec_fast.errors import CorruptFileError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers import encode_file
from genrec_fast.trie import build_trie


class TokenizerSuite:
    """Override ``config`` (from a folder for files)."""

    items = 50
    random = True  # another seed gives other codes

    def config(self, folder):
        raise NotImplementedError

    def features(self):
        return torch.randn(self.items, 6, generator=torch.Generator().manual_seed(0))

    def fitted(self, folder, seed=0):
        tokenizer = self.config(folder).build(feature_dim=6)
        assert tokenizer.fit(self.features(), num_items=self.items, seed=seed) is None
        return tokenizer

    def test_every_item_has_codes_inside_the_codebooks(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        codes, sizes = tokenizer.item_codes, tokenizer.codebook_sizes
        assert codes.dtype == torch.int32
        assert tuple(codes.shape) == (self.items, len(sizes))
        assert bool((codes >= 0).all())
        assert bool((codes < torch.tensor(sizes)).all())
        assert build_trie(codes, codebook_sizes=sizes).num_items == self.items

    def test_the_seed_decides(self, tmp_path):
        first = self.fitted(tmp_path).item_codes
        torch.randn(3)  # nothing hangs on torch's global generator
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
        assert not list(tmp_path.glob(".*"))  # no temporary file stays

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
        tokenizer = self.config(tmp_path).build(feature_dim=6)
        with pytest.raises(InvalidValueError, match=f"{tokenizer.kind}: item_codes must come from fit or load"):
            _ = tokenizer.item_codes
        with pytest.raises(InvalidValueError, match=f"{tokenizer.kind}: codebook_sizes must come from fit or load"):
            _ = tokenizer.codebook_sizes

    def test_the_number_of_items_is_checked(self, tmp_path):
        tokenizer = self.config(tmp_path).build(feature_dim=6)
        with pytest.raises(InvalidValueError, match="features must have a row for each of 51 items, got 50"):
            tokenizer.fit(self.features(), num_items=51)

    def test_settings_are_frozen(self, tmp_path):
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.config(tmp_path).anything = 1

from __future__ import annotations

import sys

import pytest
import torch

from genrec_fast.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers import RQKMeans, RQKMeansConfig
from shared.tokenizer_suite import TokenizerSuite

pytest.importorskip("faiss")


class TestRQKMeans(TokenizerSuite):
    def config(self, folder):
        return RQKMeansConfig(codebook_sizes=(8, 4))

    def test_clusters_of_clusters_are_found_exactly(self):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.eye(6)[:4] * 100
        fine = torch.randn(4, 6, generator=generator)
        fine -= fine.mean(0)  # so that the mean of a coarse cluster is its centre
        i, j = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
        vectors = (coarse[i] + fine[j]).repeat(3, 1)
        tokenizer = RQKMeansConfig(codebook_sizes=(4, 4), restarts=10).build(6)
        tokenizer.fit(vectors)
        assert tokenizer.mse[1] < 1e-6 < tokenizer.mse[0]
        assert tokenizer.codebook_sizes == (4, 4, 3)  # three copies of each vector
        torch.testing.assert_close(tokenizer.decode(tokenizer.item_codes), vectors, atol=1e-4, rtol=0)
        assert len(set(zip(i.tolist(), tokenizer.item_codes[:16, 0].tolist(), strict=True))) == 4

    def test_encode_decode_and_mse_agree_with_a_plain_loop(self):
        tokenizer = self.config(None).build(6)
        done = []
        tokenizer.fit(self.features(), progress=lambda *args: done.append(args))
        codes = tokenizer.encode(self.features())
        assert torch.equal(codes, tokenizer.item_codes[:, :2])
        residual = self.features()
        for level, codebook in enumerate(tokenizer.codebooks):
            nearest = torch.cdist(residual, codebook).argmin(1)
            assert torch.equal(nearest, codes[:, level].long())
            residual = residual - codebook[nearest]
            assert tokenizer.mse[level] == pytest.approx(float(residual.square().mean()))
        torch.testing.assert_close(tokenizer.decode(codes), self.features() - residual)
        assert tokenizer.mse[1] < tokenizer.mse[0] < float(self.features().var(0, correction=0).mean())
        assert done == [(1, 2, tokenizer.mse[0]), (2, 2, tokenizer.mse[1])]

    def test_a_loaded_one_encodes_alike(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        tokenizer.save(tmp_path / "tok.safetensors")
        again = RQKMeans.load(tmp_path / "tok.safetensors")
        new = torch.randn(20, 6, generator=torch.Generator().manual_seed(9))
        assert torch.equal(again.encode(new), tokenizer.encode(new))

    def test_normalize_makes_length_irrelevant(self):
        tokenizer = RQKMeansConfig(codebook_sizes=(8,), normalize=True).build(6)
        tokenizer.fit(self.features())
        assert torch.equal(tokenizer.encode(self.features() * 7), tokenizer.encode(self.features()))

    def test_messages_name_argument_rule_and_value(self):
        tokenizer = self.config(None).build(6)
        with pytest.raises(InvalidValueError, match="rqkmeans: codebooks must come from fit or load, got neither"):
            tokenizer.encode(self.features())
        broken = self.features()
        broken[13, 2] = torch.nan
        with pytest.raises(InvalidValueError, match="rqkmeans: features must be finite, got NaN or infinity in row 13"):
            tokenizer.fit(broken)
        with pytest.raises(InvalidTypeError, match=r"rqkmeans: features must be a float tensor \[N, F\], got NoneType"):
            tokenizer.fit(None, num_items=50)
        with pytest.raises(InvalidValueError, match=r"rqkmeans: features must be \[N, 6\], got \[50, 5\]"):
            tokenizer.fit(self.features()[:, :5])
        with pytest.raises(InvalidValueError, match="rqkmeans: features must have at least 8 rows, one per code"):
            tokenizer.fit(self.features()[:7])
        tokenizer.fit(self.features())
        with pytest.raises(InvalidValueError, match=r"codes of level 1 must be in \[0, 4\), got 4 in row 0"):
            tokenizer.decode(torch.tensor([[0, 4]]))
        with pytest.raises(InvalidTypeError, match=r"rqkmeans: codes must be integers \[m, t\], got torch.float32"):
            tokenizer.decode(torch.zeros(1, 2))
        with pytest.raises(InvalidValueError, match=r"RQKMeansConfig: feature_dim must be at least 1 .*, got None"):
            RQKMeansConfig().build(None)
        with pytest.raises(InvalidValueError, match="RQKMeansConfig: iterations must be at least 1, got 0"):
            RQKMeansConfig(iterations=0)

    def test_without_faiss_the_remedy_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(UnsupportedError, match=r"rqkmeans: fit needs faiss, .* pip install 'genrec-fast\[tokenize"):
            self.config(None).build(6).fit(self.features())

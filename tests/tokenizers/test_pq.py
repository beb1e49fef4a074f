from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import OPQConfig, PQConfig
from shared.tokenizer_suite import TokenizerSuite


class TestPQ(TokenizerSuite):
    def config(self, folder):
        return PQConfig(codebook_sizes=(8, 4), iterations=5)

    def test_each_level_codes_its_slice(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        codes = tokenizer.encode(self.features())
        parts = self.features().split(3, 1)
        for level in range(2):
            nearest = torch.cdist(parts[level], tokenizer.codebooks[level]).argmin(1)
            assert torch.equal(nearest.int(), codes[:, level])
        error = (tokenizer.decode(codes) - self.features()).square().mean()
        assert tokenizer.mse == pytest.approx(float(error), rel=1e-5)


class TestOPQ(TokenizerSuite):
    def config(self, folder):
        return OPQConfig(codebook_sizes=(8, 4), iterations=5, rotations=4)

    def test_the_rotation_is_one(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        torch.testing.assert_close(tokenizer.rotation @ tokenizer.rotation.T, torch.eye(6))
        error = (tokenizer.decode(tokenizer.item_codes) - self.features()).square().mean()
        assert tokenizer.mse == pytest.approx(float(error), rel=1e-4)


def mixed(count=1500, width=16):
    """Correlated columns: what a rotation is good for."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(3, 0.2, width)
    mix = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return (torch.randn(count, width, generator=generator) * scale) @ mix


def test_the_error_is_not_above_that_of_faiss():
    faiss = pytest.importorskip("faiss")
    x = mixed()
    rows = x.numpy()
    rival = faiss.ProductQuantizer(16, 4, 4)
    rival.cp.niter = 10
    rival.train(rows)
    theirs = float(np.square(rival.decode(rival.compute_codes(rows)) - rows).mean())
    ours = PQConfig(codebook_sizes=(16,) * 4, iterations=10).build(16)
    ours.fit(x)
    assert ours.mse <= 1.01 * theirs
    turn = faiss.OPQMatrix(16, 4)
    turn.niter = 10
    turn.pq = faiss.ProductQuantizer(16, 4, 4)
    turn.train(rows)
    turned = turn.apply(rows)
    rival.train(turned)
    theirs = float(np.square(rival.decode(rival.compute_codes(turned)) - turned).mean())
    better = OPQConfig(codebook_sizes=(16,) * 4, iterations=10, rotations=10).build(16)
    better.fit(x)
    assert better.mse <= 1.01 * theirs
    assert better.mse < ours.mse


def test_uneven_slices_and_messages():
    x = mixed(100, 7)
    tokenizer = OPQConfig(codebook_sizes=(8, 8, 8), iterations=3, rotations=2).build(7)
    tokenizer.fit(x)
    assert [book.shape[1] for book in tokenizer.codebooks] == [3, 2, 2]
    with pytest.raises(InvalidValueError, match="feature_dim must be at least 8, one element per level, got 7"):
        PQConfig().build(7)
    with pytest.raises(InvalidValueError, match="OPQConfig: rotations must be at least 1, got 0"):
        OPQConfig(rotations=0)
    with pytest.raises(InvalidTypeError, match=r"PQConfig: iterations must be an int, got 2\.5"):
        PQConfig(iterations=2.5)

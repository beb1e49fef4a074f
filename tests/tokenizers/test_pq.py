from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import OPQConfig, PQConfig, load
from shared.catalogs import wide
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


def noise(count=1500, width=16):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("data", [noise, mixed])
def test_the_error_is_not_above_that_of_faiss(data):
    faiss = pytest.importorskip("faiss")
    x = data()
    rows = x.numpy()
    rival = faiss.ProductQuantizer(16, 4, 4)
    rival.cp.niter = 10
    rival.cp.max_points_per_centroid = len(rows)  # all rows, as we do
    rival.train(rows)
    theirs = float(np.square(rival.decode(rival.compute_codes(rows)) - rows).mean())
    ours = PQConfig(codebook_sizes=(16,) * 4, iterations=10).build(wide(16))
    ours.fit(x)
    assert ours.mse <= 1.01 * theirs
    turn = faiss.OPQMatrix(16, 4)
    turn.niter = 10
    turn.pq = faiss.ProductQuantizer(16, 4, 4)
    turn.train(rows)
    turned = turn.apply(rows)
    rival.train(turned)
    theirs = float(np.square(rival.decode(rival.compute_codes(turned)) - turned).mean())
    better = OPQConfig(codebook_sizes=(16,) * 4, iterations=10, rotations=10).build(wide(16))
    better.fit(x)
    assert better.mse <= 1.01 * theirs
    assert better.mse < ours.mse


def error(vectors, x):
    return float((vectors - x).double().square().mean())


@pytest.mark.parametrize("config", [PQConfig, OPQConfig])
def test_a_longer_prefix_never_has_more_error_and_an_unknown_slice_is_the_mean(config, tmp_path):
    x = mixed(400, 11) + 5
    x[::4] = x[0]  # so that codes are used unevenly, and the mean of the codebook is not that of the catalog
    tokenizer = config(codebook_sizes=(8, 8, 8), iterations=6).build(wide(11))
    tokenizer.fit(x)
    codes = tokenizer.encode(x)
    errors = [error(tokenizer.decode(codes[:, :length]), x) for length in (1, 2, 3)]
    assert error(x.mean(0), x) > errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(tokenizer.mse, rel=1e-4)
    tokenizer.save(tmp_path / "tok.safetensors")
    again = load(tmp_path / "tok.safetensors")
    assert torch.equal(again.decode(codes[:, :1]), tokenizer.decode(codes[:, :1]))
    if config is PQConfig:
        known = tokenizer.decode(codes[:, :1])
        torch.testing.assert_close(known[:, 4:], x.mean(0)[4:].expand(400, -1))
        assert torch.equal(known[:, :4], tokenizer.codebooks[0][codes[:, 0].long()])


def test_the_rounds_of_the_rotation_lower_the_error():
    x, told = mixed(), []
    tokenizer = OPQConfig(codebook_sizes=(16,) * 4, rotations=6).build(wide(16))
    tokenizer.fit(x, progress=lambda what, done, total, figures: told.append((what, figures["mse"])))
    rounds = [figure for what, figure in told if what == "opq rotation"]
    assert len(rounds) == 6
    assert rounds == sorted(rounds, reverse=True)
    assert tokenizer.mse < rounds[-1]


@pytest.mark.parametrize("config", [PQConfig, OPQConfig])
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(20, 7),
        noise(3, 7).repeat(7, 1),
        noise(40, 1) @ noise(1, 7),
        noise(40, 7) * torch.eye(7)[2],
        noise(40, 7) * 1e30,
        noise(40, 7) * 1e-30,
        noise(7, 40).T.half(),
        noise(8, 7),
    ],
    ids=["zeros", "three rows", "a line", "a column", "huge", "tiny", "half, a view", "a row per code"],
)
def test_data_of_few_directions_or_odd_scale(config, x):
    tokenizer = config(codebook_sizes=(8, 1, 8), iterations=4).build(wide(7))
    tokenizer.fit(x)
    codes = tokenizer.encode(x)
    assert torch.equal(codes, tokenizer.item_codes[:, :3])
    broad = x.double()
    before = float((broad - broad.mean(0)).square().mean())
    after = error(tokenizer.decode(codes).double(), broad)
    assert after <= before * (1 + 1e-5)
    if len(x.unique(dim=0)) <= 8 and config is OPQConfig:
        again = OPQConfig(codebook_sizes=(8,), iterations=4).build(wide(7))
        again.fit(x)
        assert error(again.decode(again.encode(x)).double(), broad) <= before * 1e-9


@pytest.mark.parametrize("config", [PQConfig, OPQConfig])
@pytest.mark.parametrize("dedup", ["nearest_free", "sinkhorn"])
def test_items_of_equal_codes_move_to_free_ones_near(config, dedup):
    x = mixed(60, 6)
    tokenizer = config(codebook_sizes=(6, 16), iterations=6, dedup=dedup).build(wide(6))
    tokenizer.fit(x)
    codes = tokenizer.item_codes
    assert codes.shape == (60, 2)
    assert len(codes.unique(dim=0)) == 60
    plain = config(codebook_sizes=(6, 16), iterations=6, dedup="none").build(wide(6))
    plain.fit(x)
    assert torch.equal(tokenizer.encode(x), plain.item_codes)
    moved = (codes != plain.item_codes).any(1)
    assert 0 < int(moved.sum()) < 40
    assert tokenizer.resolution.items_touched == int(moved.sum())
    assert tokenizer.resolution.distortion_before == pytest.approx(plain.mse, rel=1e-4)
    assert tokenizer.resolution.distortion_after == pytest.approx(tokenizer.mse, rel=1e-4)
    assert error(tokenizer.decode(codes), x) == pytest.approx(tokenizer.mse, rel=1e-4)


def test_vectors_that_leave_float32_when_rotated_are_named():
    x = torch.full((9, 4), 3e38)
    with pytest.raises(InvalidValueError, match="opq: features must stay within float32 when rotated, got infinity"):
        OPQConfig(codebook_sizes=(2,)).build(wide(4)).fit(x * torch.where(noise(9, 4) > 0, 1, -1))
    tokenizer = PQConfig(codebook_sizes=(2, 2)).build(wide(4))
    tokenizer.fit(x)
    assert bool(tokenizer.decode(tokenizer.encode(x)[:, :1]).isfinite().all())


def test_uneven_slices_and_messages():
    x = mixed(100, 7)
    tokenizer = OPQConfig(codebook_sizes=(8, 8, 8), iterations=3, rotations=2).build(wide(7))
    tokenizer.fit(x)
    assert [book.shape[1] for book in tokenizer.codebooks] == [3, 2, 2]
    with pytest.raises(InvalidValueError, match="feature_dim must be at least 8, one element per level, got 7"):
        PQConfig().build(wide(7))
    with pytest.raises(InvalidValueError, match="OPQConfig: rotations must be at least 1, got 0"):
        OPQConfig(rotations=0)
    with pytest.raises(InvalidTypeError, match=r"PQConfig: iterations must be an int, got 2\.5"):
        PQConfig(iterations=2.5)

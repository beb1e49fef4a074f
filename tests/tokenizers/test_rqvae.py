from __future__ import annotations

import math

import pytest
import torch

from genrec_fast.base.errors import DivergedError, InvalidTypeError, InvalidValueError
from genrec_fast.ops.reference.rq_encode import rq_encode as rq_encode_twin
from genrec_fast.tokenizers import RQVAE, RQVAEConfig
from shared.catalogs import wide
from shared.tokenizer_suite import TokenizerSuite

SMALL = {
    "codebook_sizes": (8, 4),
    "hidden_sizes": (16,),
    "latent_dim": 4,
    "steps": 40,
    "autoencoder_share": 0.25,
    "batch_size": 32,
    "log_every": 10,
}


def clusters(count=600, width=12, groups=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, width, generator=generator)
    which = torch.randint(groups, (count,), generator=generator)
    return centres[which] + 0.05 * torch.randn(count, width, generator=generator)


def fitted(features=None, seed=0, **settings):
    features = clusters() if features is None else features
    tokenizer = RQVAEConfig(**{**SMALL, **settings}).build(wide(features.shape[1]))
    tokenizer.fit(features, seed=seed)
    return tokenizer


class TestRQVAE(TokenizerSuite):
    def config(self, folder):
        return RQVAEConfig(**SMALL)

    def test_encode_decode_and_mse_agree_with_a_plain_loop(self):
        tokenizer = self.fitted(None)
        codes = tokenizer.encode(self.features())
        assert torch.equal(codes, tokenizer.item_codes[:, :2])
        model = tokenizer._model
        scaled = (self.features() - model.mean) / model.scale
        residual = model.encoder(scaled).detach()
        torch.testing.assert_close(residual, tokenizer.latents(self.features()))
        total = torch.zeros_like(residual)
        for level, book in enumerate(tokenizer.codebooks):
            nearest = torch.cdist(residual, book).argmin(1)
            assert torch.equal(nearest, codes[:, level].long())
            residual, total = residual - book[nearest], total + book[nearest]
        out = (model.decoder(total) * model.scale + model.mean).detach()
        torch.testing.assert_close(tokenizer.decode(tokenizer.item_codes), out)
        torch.testing.assert_close(tokenizer.decode(codes[:3, :1]), tokenizer.decode(codes[:3, :1].long()))
        assert tokenizer.mse == pytest.approx(float((out - self.features()).square().mean()), rel=1e-5)

    def test_a_loaded_one_encodes_alike(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        tokenizer.save(tmp_path / "tok.safetensors")
        again = RQVAE.load(tmp_path / "tok.safetensors")
        new = torch.randn(20, 6, generator=torch.Generator().manual_seed(9))
        assert torch.equal(again.encode(new), tokenizer.encode(new))
        assert torch.equal(again.decode(again.item_codes), tokenizer.decode(again.item_codes))
        assert again.history == tokenizer.history
        assert again.mse == tokenizer.mse

    def test_a_row_has_one_code_whatever_block_it_stands_in(self):
        tokenizer = self.fitted(None)
        one_by_one = torch.cat([tokenizer.encode(row[None]) for row in self.features()])
        assert torch.equal(one_by_one, tokenizer.encode(self.features()))
        assert tokenizer.encode(self.features()[:0]).shape == (0, 2)
        assert tokenizer.decode(torch.empty(0, 2, dtype=torch.int32)).shape == (0, 6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decay": None},
        {"estimator": "rotation"},
        {"estimator": "gumbel", "decay": None},
        {"distance": "cosine"},
        {"distance": "cosine", "decay": None, "estimator": "rotation"},
        {"sinkhorn_epsilon": 0.01},
    ],
    ids=str,
)
def test_every_variant_learns_and_uses_its_codes(settings):
    features = clusters()
    tokenizer = fitted(features, codebook_sizes=(16, 16), hidden_sizes=(32,), latent_dim=8, steps=300, **settings)
    variance = float(features.var(0, correction=0).mean())
    assert tokenizer.mse < 0.4 * variance
    assert min(tokenizer.report()["codebook_use"][:2]) >= 0.95
    assert tokenizer.history[-1]["reconstruction"] < 0.5 * tokenizer.history[0]["reconstruction"]


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_codes_are_those_of_the_twin_and_of_the_distance(distance):
    features = clusters()
    tokenizer = fitted(features, distance=distance)
    latents, codes = tokenizer.latents(features), tokenizer.encode(features)
    assert torch.equal(codes, rq_encode_twin(latents, tokenizer.codebooks))
    residual = latents
    for level, book in enumerate(tokenizer.codebooks):
        if distance == "cosine":
            cosine = torch.nn.functional.cosine_similarity(residual[:, None], book[None], dim=2)
            best = cosine.gather(1, codes[:, level, None].long())[:, 0]
            torch.testing.assert_close(best, cosine.amax(1))
        residual = residual - book[codes[:, level].long()]


def test_codes_that_training_left_unused_are_filled():
    features = clusters(groups=64)
    late = {"kmeans_iterations": 0, "codebook_sizes": (64, 16), "steps": 20, "learning_rate": 0.01}
    assert min(fitted(features, restart_below=0.0, **late).report()["codebook_use"][:2]) < 0.95
    assert min(fitted(features, restart_below=0.01, **late).report()["codebook_use"][:2]) >= 0.95


def test_accelerates_device_is_taken():
    features = clusters()
    tokenizer = fitted(features, device="auto")
    assert tokenizer.item_codes.device.type == "cpu"
    if not torch.cuda.is_available():
        assert torch.equal(tokenizer.item_codes, fitted(features).item_codes)


def test_the_history_is_written_as_it_trains():
    features, seen = clusters(), []
    tokenizer = RQVAEConfig(**SMALL).build(wide(12))
    tokenizer.fit(features, progress=lambda *row: seen.append(row))
    assert [row["step"] for row in tokenizer.history] == [10, 20, 30, 40]
    assert seen == [("rqvae", int(row["step"]), 40, row) for row in tokenizer.history]
    first, second = tokenizer.history[:2]
    assert first["use.0"] == first["quantization"] == 0  # the autoencoder alone
    assert first["loss"] == first["reconstruction"]
    assert 0 < second["use.1"] <= 1
    assert second["loss"] == pytest.approx(second["reconstruction"] + second["quantization"])
    assert tokenizer.report()["training"] == tokenizer.history[-1]


def test_dead_codes_come_back():
    features = clusters()
    dead = {"kmeans_iterations": 0, "codebook_sizes": (64,), "steps": 300, "decay": 0.9}
    without, with_restarts = fitted(features, restart_below=0.0, **dead), fitted(features, restart_below=0.1, **dead)
    assert sum(row["restarts"] for row in without.history) == 0
    assert sum(row["restarts"] for row in with_restarts.history) > 0
    assert with_restarts.report()["codebook_use"][0] > without.report()["codebook_use"][0]


def test_units_do_not_matter():
    features = clusters()
    plain, large = fitted(features), fitted(features * 1024)
    assert large.mse == pytest.approx(plain.mse * 1024**2, rel=1e-3)
    assert float((plain.item_codes[:, :2] == large.item_codes[:, :2]).double().mean()) > 0.99


@pytest.mark.parametrize("value", [0.0, 3.5, -1e30, 1e30])
def test_constant_features_end_in_one_code(value):
    tokenizer = fitted(torch.full((50, 6), value))
    assert len(tokenizer.encode(torch.full((2, 6), value)).unique(dim=0)) == 1
    torch.testing.assert_close(tokenizer.decode(tokenizer.item_codes[:1]), torch.full((1, 6), value))


def test_few_items_and_few_of_their_kind():
    two = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    tokenizer = fitted(two, codebook_sizes=(2,), latent_dim=2)
    assert len(tokenizer.item_codes[:, 0].unique()) == 2
    one = fitted(two[:1], codebook_sizes=(1,))
    assert one.item_codes.tolist() == [[0, 0]]
    with pytest.raises(InvalidValueError, match="rqvae: features must have at least 8 rows, one per code of a level"):
        fitted(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)))


def test_a_loss_that_explodes_is_named():
    with pytest.raises(DivergedError, match=r"rqvae: loss must stay finite, got (nan|inf) in step \d+; lower learning"):
        fitted(learning_rate=1e30)


def test_messages_name_argument_rule_and_value():
    tokenizer = RQVAEConfig(**SMALL).build(wide(12))
    with pytest.raises(InvalidValueError, match="rqvae: codebooks must come from fit or load, got neither"):
        tokenizer.encode(clusters())
    broken = clusters()
    broken[13, 2] = torch.nan
    with pytest.raises(InvalidValueError, match="rqvae: features must be finite, got NaN or infinity in row 13"):
        tokenizer.fit(broken)
    with pytest.raises(InvalidTypeError, match=r"rqvae: features must be a float tensor \[N, F\], got NoneType"):
        tokenizer.fit(None, num_items=50)
    tokenizer.fit(clusters())
    with pytest.raises(InvalidValueError, match=r"codes of level 1 must be in \[0, 4\), got 4 in row 0"):
        tokenizer.decode(torch.tensor([[0, 4]]))
    with pytest.raises(InvalidTypeError, match=r"rqvae: codes must be integers \[m, t\], got torch.float32"):
        tokenizer.decode(torch.zeros(1, 2))
    with pytest.raises(InvalidValueError, match=r"rqvae: codes must be \[m, 1 to 3\], got \[1, 4\]"):
        tokenizer.decode(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match=r"RQVAEConfig: feature_dim must be at least 1 .*, got None"):
        RQVAEConfig().build(wide(None))


def test_kinds_are_checked():
    for name, value in (
        ("learning_rate", "fast"),
        ("hidden_sizes", 5),
        ("latent_dim", 2.5),
        ("decay", "slow"),
        ("temperatures", 1.0),
    ):
        with pytest.raises(
            InvalidTypeError,
            match=f"RQVAEConfig: {name} must be an? (int|number|number or None|tuple of .*), got {value!r}",
        ):
            RQVAEConfig(**{name: value})
    for seed, error in ((-1, InvalidValueError), (1.5, InvalidTypeError), (None, InvalidTypeError)):
        with pytest.raises(error, match="rqvae: seed must be"):
            fitted(seed=seed)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"autoencoder_share": 1.0}, r"autoencoder_share must be in \[0, 1\), got 1.0"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be at least 1, got 0"),
        ({"estimator": "gumbel"}, "decay must be None with gumbel"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0 and finite, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, got 0"),
        ({"restart_below": 1.0}, r"restart_below must be in \[0, 1\), got 1.0"),
        ({"sinkhorn_epsilon": 0.001}, "sinkhorn_epsilon must be 0 or at least 0.003, got 0.001"),
        ({"temperatures": (1.0, 0.0)}, "temperatures must be above 0 and finite, got 0"),
        ({"temperatures": (1.0,)}, "temperatures must be a tuple of 2 numbers, got"),
        ({"device": "gpu"}, "device must be 'cpu' or 'auto', got 'gpu'"),
        ({"codebook_sizes": ()}, "codebook_sizes must be in"),
    ],
    ids=str,
)
def test_settings_are_checked(settings, text):
    with pytest.raises(InvalidValueError, match=f"RQVAEConfig: {text}"):
        RQVAEConfig(**settings)

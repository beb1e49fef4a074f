"""RecBase's curriculum: the levels of an RQ-VAE join one after the other."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers import RQVAEConfig, UniquenessConfig
from genrec_fast.tokenizers.rqvae import training
from genrec_fast.tokenizers.rqvae.training import joined_levels
from shared.catalogs import wide

SMALL = {
    "codebook_sizes": (8, 8, 4, 4),
    "hidden_sizes": (16,),
    "latent_dim": 4,
    "steps": 50,
    "autoencoder_share": 0.2,
    "batch_size": 64,
    "log_every": 1,
    "decay": None,
}


def vectors():
    return torch.randn(300, 12, generator=torch.Generator().manual_seed(0))


def fitted(**settings):
    tokenizer = RQVAEConfig(**{**SMALL, **settings}).build(wide(12))
    tokenizer.fit(vectors(), seed=0)
    return tokenizer


def test_when_levels_join():
    """40 steps with codes, of which the first 30 are the curriculum: a level every 10."""
    config = RQVAEConfig(**SMALL, curriculum=0.75)
    joined = [joined_levels(config, step) for step in range(50)]
    assert joined == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10
    at_once = RQVAEConfig(**SMALL)
    assert [joined_levels(at_once, step) for step in (0, 9, 10, 49)] == [0, 0, 4, 4]
    for share in (0.01, 0.99):  # all are there in the last step
        assert joined_levels(RQVAEConfig(**SMALL, curriculum=share), 49) == 4


def test_a_level_is_used_from_when_it_joins():
    tokenizer = fitted(curriculum=0.75)
    for level, first in enumerate((10, 20, 30, 40)):
        used = [row[f"use.{level}"] > 0 for row in tokenizer.history]
        assert used == [False] * first + [True] * (50 - first)
    assert tokenizer.item_codes.shape[1] == 5  # and the level against collisions
    assert torch.equal(tokenizer.encode(vectors()), tokenizer.item_codes[:, :4])
    assert all(len(column.unique()) > 1 for column in tokenizer.item_codes[:, :4].unbind(1))


def test_a_level_begins_on_what_the_levels_before_leave(monkeypatch):
    """The vectors that start a level are the latents of that moment less their nearest codes of the levels before."""
    seen, wanted = [], []
    real_kmeans, real_start = training.kmeans, training._start_codebooks

    def kmeans(vectors, *args, **options):
        seen.append(vectors)
        return real_kmeans(vectors, *args, **options)

    def start(model, config, features, generator, device, levels):
        with torch.no_grad():
            residual = model.encoder(model.scaled(features))
            for level in model.quantizer.levels[: levels.start]:
                residual = residual - level.codebook[torch.cdist(residual, level.codebook).argmin(1)]
        wanted.append(residual)
        real_start(model, config, features, generator, device, levels)

    monkeypatch.setattr(training, "kmeans", kmeans)
    monkeypatch.setattr(training, "_start_codebooks", start)
    fitted(curriculum=0.75)
    assert len(seen) == len(wanted) == 4
    for part, by_hand in zip(seen, wanted, strict=True):
        torch.testing.assert_close(part, by_hand)


def test_without_it_nothing_changes():
    assert torch.equal(fitted().item_codes, fitted(curriculum=0.0).item_codes)
    assert not torch.equal(fitted().item_codes, fitted(curriculum=0.5).item_codes)


def test_what_does_not_fit_is_named():
    with pytest.raises(InvalidValueError, match=r"^RQVAEConfig: curriculum must be in \[0, 1\), got 1.0"):
        RQVAEConfig(curriculum=1.0)
    with pytest.raises(InvalidValueError, match=r"^RQVAEConfig: curriculum must be 0 with regularisers, .* got 0.5"):
        RQVAEConfig(curriculum=0.5, regularisers=(UniquenessConfig(),))

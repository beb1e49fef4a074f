"""A small shop and a small T5 for it: what the proofs train."""

from __future__ import annotations

import dataclasses

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop


def data(num_users: int = 100) -> gf.data.Dataset:
    """Of 72 items with features."""
    return Shop(72, feature_dim=8).dataset(num_users, seed=1)


def recipe() -> gf.Recipe:
    """A T5 that writes three codes."""
    return gf.Recipe(
        name="tiny",
        source="TIGER, arXiv:2305.05065",
        tokenizer=gf.RQKMeansConfig(codebook_sizes=(8, 8, 8), dedup="none"),
        layout=gf.PlainConfig(),
        backbone=gf.T5Config(width=16, num_heads=2, head_width=8, num_layers=1, hidden=32, num_user_tokens=0),
        objective=gf.NextCodeConfig(),
        decoder=gf.BeamConfig(num_beams=10),
        batching=gf.BatchingConfig(targets="last", items_per_batch=512),
        train=gf.TrainConfig(epochs=3, learning_rate=1e-2, warmup_steps=5, evaluate_every=1, bf16=False),
    )


def changed(recipe: gf.Recipe, **settings: object) -> gf.Recipe:
    """The recipe with other settings of its training."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **settings))

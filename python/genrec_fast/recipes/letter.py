"""LETTER: semantic IDs that know who interacted with what and use all codes, and a loss that ranks hard codes."""

from __future__ import annotations

import dataclasses

from genrec_fast.decoders import BeamConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, published
from genrec_fast.tokenizers import AlignmentConfig, DiversityConfig, RQVAEConfig


def letter() -> Recipe:
    """LETTER-TIGER: the tokenizer's three terms, then TIGER's network; set ``objective.temperature`` per data set."""
    made = published()
    return dataclasses.replace(
        made,
        name="letter",
        source="LETTER, arXiv:2405.07314",
        deviations=(
            "collaborative vectors come from which items stand together in histories (a factorised matrix) in place of "
            "a trained SASRec",
            "the weights 0.01 of the collaborative and 0.0001 of the diversity term are one choice of those published "
            "per data set, and features are scaled before they are reconstructed",
            "one hidden layer of 512 and 2,000 steps in place of six layers and 20,000 epochs; the last model is "
            "taken, not that of the fewest collisions",
            "codes are grouped anew every 100 steps in place of every epoch",
            "the temperature of the loss is 1, the published code's default",
            "AdamW at 5e-4 with 500 steps of warm-up, then inverse square root, in place of cosine; weight decay 0.01, "
            "on embedding tables, too; batches of 1,024 items in place of 1,024 histories",
            HEAD,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256, 256, 256, 256),
            latent_dim=32,
            decay=None,
            commitment=0.25,
            sinkhorn_epsilon=0.003,
            steps=2000,
            batch_size=1024,
            regularisers=(
                AlignmentConfig(weight=0.01, temperature=1.0, similarity="product"),
                DiversityConfig(weight=0.0001, temperature=1.0, similarity="product"),
            ),
            dedup="sinkhorn",
        ),
        objective=NextCodeConfig(temperature=1.0),
        decoder=BeamConfig(num_beams=20),
        train=dataclasses.replace(made.train, learning_rate=5e-4, weight_decay=0.01),
    )

"""TIGER's own tokenizer under TIGER's network: semantic IDs of a residual-quantized autoencoder."""

from __future__ import annotations

import dataclasses

from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, SEARCH, published
from genrec_fast.tokenizers import RQVAEConfig


def rq_vae() -> Recipe:
    """``tiger`` with the RQ-VAE of the paper in place of residual k-means."""
    return dataclasses.replace(
        published(),
        name="rq_vae",
        source="RQ-VAE, arXiv:2203.01941; as semantic IDs: TIGER, arXiv:2305.05065",
        deviations=(
            "2,000 steps of AdamW at 2e-3 in place of 20,000 epochs of Adagrad at 0.4",
            "items are known by the dataset's vectors in place of Sentence-T5's of title, price, brand and category",
            "AdamW and schedule as tiger's, weight decay 0.035, on embedding tables, too; batches of 1,024 items in "
            "place of 256 histories",
            HEAD,
            SEARCH,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256, 256, 256),
            hidden_sizes=(512, 256, 128),
            latent_dim=32,
            decay=None,
            commitment=0.25,
            steps=2000,
            autoencoder_share=0.0,
            batch_size=1024,
            restart_below=0.0,
        ),
    )

"""CoST: a tokenizer that tells items apart in place of reconstructing them."""

from __future__ import annotations

import dataclasses

from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, SEARCH, published
from genrec_fast.tokenizers import ContrastiveConfig, RQVAEConfig


def cost() -> Recipe:
    """``tiger`` over an RQ-VAE whose decoder's output shall be nearer to its own item than to others of the batch."""
    return dataclasses.replace(
        published(),
        name="cost",
        source="CoST, arXiv:2404.14774",
        deviations=(
            "no public code to compare with; the contrast's temperature 0.1 is ours",
            "the contrast takes the reconstruction error's place entirely",
            "sizes and steps of the RQ-VAE are ours: one hidden layer of 512, latents of 128, 1,000 steps",
            "items are known by the dataset's vectors",
            "network, optimizer and schedule are tiger's, weight decay 0.035, on embedding tables, too",
            HEAD,
            SEARCH,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256, 256, 256),
            reconstruction_weight=0.0,
            regularisers=(ContrastiveConfig(weight=1.0, temperature=0.1),),
        ),
    )

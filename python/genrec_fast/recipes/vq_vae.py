"""VQ-VAE: one codebook of an autoencoder gives an item's first code, its number among equal ones the second."""

from __future__ import annotations

import dataclasses

from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, SEARCH, published
from genrec_fast.tokenizers import RQVAEConfig


def vq_vae() -> Recipe:
    """``tiger`` over one level of 1,024 codes whose means move with what is coded, and a level against collisions."""
    return dataclasses.replace(
        published(),
        name="vq_vae",
        source="VQ-VAE, arXiv:1711.00937, section 3 and appendix A.1",
        deviations=(
            "items' vectors in place of images: linear layers, and one code an item in place of a grid of them",
            "the network that writes the codes is TIGER's in place of a PixelCNN",
            "codes that nothing falls to are moved onto vectors of the batch, and k-means starts them",
            "AdamW and schedule as tiger's, weight decay 0.035, on embedding tables, too",
            HEAD,
            SEARCH,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(codebook_sizes=(1024,), decay=0.99, commitment=0.25),
    )

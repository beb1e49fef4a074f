"""HiD-VAE: levels that tell an item's tags, from the coarse to the fine, and IDs that are unique by themselves."""

from __future__ import annotations

import dataclasses

from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, SEARCH, published
from genrec_fast.tokenizers import RQVAEConfig, TagSupervisionConfig, UniquenessConfig


def hid_vae() -> Recipe:
    """``tiger`` over an RQ-VAE supervised by the catalog's categories, which the data must have."""
    return dataclasses.replace(
        published(),
        name="hid_vae",
        source="HiD-VAE, arXiv:2508.04618",
        deviations=(
            "tags are predicted by a linear head from the sum of the codes so far, in place of an attention network "
            "over what they are joined to, with focal loss, label smoothing and mixup",
            "codes are not aligned with embeddings of the tags' texts, which the data does not have",
            "the level against collisions stays, for what the uniqueness loss leaves; weights of 0.5 meet features "
            "that are scaled",
            "1,000 steps and one hidden layer of 512 are ours; items are known by the dataset's vectors",
            "network, optimizer and schedule are tiger's, weight decay 0.035, on embedding tables, too",
            HEAD,
            SEARCH,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256, 256, 256),
            latent_dim=32,
            estimator="gumbel",
            decay=None,
            regularisers=(TagSupervisionConfig(weight=0.5), UniquenessConfig(weight=0.5, margin=0.5)),
        ),
    )

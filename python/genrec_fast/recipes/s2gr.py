"""S2GR: before each code a thought, held to the cluster of codes that the next one is in."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import S2GRConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import GuidedThoughtsConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, SEARCH, published
from genrec_fast.tokenizers import CoOccurrenceConfig, DiversityConfig, RQVAEConfig


def s2gr() -> Recipe:
    """TIGER's network with a thought in front of each of three codes, over semantic IDs that know co-occurrence."""
    made = published()
    return dataclasses.replace(
        made,
        name="s2gr",
        source="S2GR, arXiv:2601.18664, of which we know a summary with the equations of its network",
        deviations=(
            "the tokenizer learns co-occurrence by a contrast of items that stand together and spreads codes by the "
            "diversity term, where the paper smooths features over the co-occurrence graph before the RQ-VAE, pushes "
            "apart codes that lie too near, and shifts the choice of codes by how often they were chosen",
            "unused codes are moved onto vectors of the batch in place of that shift; what collides is assigned again",
            "clusters are those of what each code adds to the mean of items' features, in place of the RQ-VAE's own "
            "code vectors, and a learned projection takes their centres to the network's width",
            "16 clusters a level, both temperatures 0.1 and the weight 0.1 of the first thought's distance are ours",
            "the small decoder of two layers reads one learned vector without self-attention",
            "items are known by the dataset's vectors in place of Qwen3-Embedding-4B's of their texts",
            "network, optimizer and schedule are tiger's, without the user token; weight decay 0.035, on embedding "
            "tables, too; batches of 1,024 items",
            "1,000 steps and one hidden layer of 512 in the tokenizer are ours",
            HEAD,
            SEARCH,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256, 256, 256),
            latent_dim=32,
            decay=None,
            regularisers=(CoOccurrenceConfig(), DiversityConfig()),
            dedup="sinkhorn",
        ),
        layout=PlainConfig(use_features=True),
        backbone=S2GRConfig(),
        objective=GuidedThoughtsConfig(),
    )

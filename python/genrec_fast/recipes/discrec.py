"""DiscRec: TIGER whose codes also see their own item alone, and a gate per code that weighs both."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import DiscRecConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, published
from genrec_fast.tokenizers import RQVAEConfig


def discrec() -> Recipe:
    """The mixture in front of a T5, over an RQ-VAE whose last level is shared out evenly."""
    made = published()
    return dataclasses.replace(
        made,
        name="discrec",
        source="DiscRec, arXiv:2506.15576",
        deviations=(
            "the end token is an item of its own, where the published code lets it see the last item and be seen by it",
            "a position has the same slot in training and in the search, where the published code gives slot 0 to each "
            "code that it writes alone",
            "the branch's feed-forward adds what it read, as its attention does: the published one was not to be seen",
            "2,000 steps and one hidden layer of 512 in the tokenizer are ours",
            "AdamW at 5e-4 with 500 steps of warm-up, then inverse square root; weight decay 0.035, on embedding "
            "tables, too; batches of 1,024 items in place of 256 histories",
            HEAD,
            *NETWORK,
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256, 256, 256, 256),
            latent_dim=32,
            decay=None,
            sinkhorn_epsilon=0.003,
            steps=2000,
            batch_size=1024,
            dedup="sinkhorn",
        ),
        layout=PlainConfig(),
        backbone=DiscRecConfig(num_user_tokens=0),
        train=dataclasses.replace(made.train, learning_rate=5e-4),
    )

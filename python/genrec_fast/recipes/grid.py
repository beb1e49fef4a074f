"""GRID: TIGER as an open framework configures it."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import T5Config
from genrec_fast.layouts import PlainConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import NETWORK, SEARCH, published
from genrec_fast.tokenizers import RQKMeansConfig


def grid() -> Recipe:
    """Residual k-means, embeddings that are also the head, no user token."""
    return dataclasses.replace(
        published(),
        name="grid",
        source="GRID, arXiv:2507.22224, its configuration tiger_train_flat",
        deviations=(
            "30 epochs, an hour at most, in place of 320,000 steps; AdamW with weight decay 0.035, on embedding "
            "tables, too, in place of Adam",
            "items are known by the dataset's vectors",
            SEARCH,
            *NETWORK,
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256)),
        layout=PlainConfig(),
        backbone=T5Config(dropout=0.15, num_user_tokens=0, tied=True),
    )

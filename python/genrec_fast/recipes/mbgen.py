"""MBGen: what users did stands among the codes, and the next item is written for what shall be done with it."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import MBGenConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import BehaviourCodesConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.hstu_ranking import ACTIONS
from genrec_fast.recipes.tiger import HEAD, NETWORK, published
from genrec_fast.tokenizers import RQKMeansConfig


def mbgen() -> Recipe:
    """Data need actions: ``data.load(folder, actions=("rating>=4", "rating>=5"))``, which the CLI does."""
    made = published()
    return dataclasses.replace(
        made,
        name="mbgen",
        source="MBGen, arXiv:2405.16871; settings: anananan116/MBGen, commit 8cc7f10, Retail",
        deviations=(
            "behaviours are thresholds of a rating (below 4, at least 4, at least 5) in place of clicks, favourites, "
            "carts and purchases",
            "items of the last behaviour are asked for, and the next item counts whatever was done with it",
            "codes see the behaviour that they are written for, and not the start token before it",
            "semantic IDs from residual k-means in place of one level of an autoencoder and k-means of what it leaves "
            "(3 levels of 64, 64 and 128; a digit against collisions)",
            "the beam search follows the catalog's trie",
            "width 128 in place of 256 and histories of 20 items in place of 50; batches of 1,024 items in place of "
            "512 histories",
            "AdamW at 1e-3 with 500 steps of warm-up in place of 15,000, then inverse square root",
            "weight decay 0.005, on embedding tables, too",
            HEAD,
            *NETWORK,
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(64, 64, 128)),
        layout=PlainConfig(use_users=True, actions="read"),
        backbone=MBGenConfig(hidden=512, dropout=0.0, num_actions=len(ACTIONS), wanted=len(ACTIONS)),
        objective=BehaviourCodesConfig(actions=ACTIONS),
        train=dataclasses.replace(made.train, weight_decay=0.005),
    )

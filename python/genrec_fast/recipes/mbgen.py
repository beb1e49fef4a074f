"""MBGen: what users did stands among the codes, and the next item is written for what shall be done with it."""

from __future__ import annotations

from genrec_fast.backbones import MBGenConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import BehaviourCodesConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.recipes.tiger import HEAD, NETWORK
from genrec_fast.tokenizers import RQKMeansConfig

__all__ = ["mbgen"]


def mbgen() -> Recipe:
    """Data need actions: ``data.load(folder, actions=("rating>=4", "rating>=5"))``, which the CLI does."""
    actions = ("rating>=4", "rating>=5")
    return Recipe(
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
        backbone=MBGenConfig(hidden=512, dropout=0.0, num_actions=len(actions), wanted=len(actions)),
        objective=BehaviourCodesConfig(actions=actions),
        decoder=BeamConfig(num_beams=30),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            max_minutes=60.0,
            learning_rate=1e-3,
            schedule="inverse_sqrt",
            warmup_steps=500,
            weight_decay=0.005,
            beta2=0.999,
            evaluate_every=1,
            evaluate_users=2000,
            evaluate_beams=10,
            patience=0,
        ),
    )

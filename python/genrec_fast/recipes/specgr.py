"""SpecGR: items drafted by what their texts say, and verified by the network that writes semantic IDs."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import LigerConfig
from genrec_fast.decoders import DraftedItemsConfig
from genrec_fast.objectives import CodesAndVectorsConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.liger import liger

__all__ = ["specgr"]


def specgr() -> Recipe:
    """The paper's search over one network that drafts and verifies, as its SpecGR++ does."""
    return dataclasses.replace(
        liger(),
        name="specgr",
        source="SpecGR, arXiv:2410.02939; settings: Jamesding000/SpecGR, commit ce74660",
        deviations=(
            "the drafter is LIGER's reading: the state behind the history against an MLP of an item's features, where "
            "SpecGR++ takes the mean of the encoder's states, of a history and of an item's own codes, and SpecGR a "
            "UniSRec",
            "one training with 6 times the item loss over all items that occur in it, where the paper's begins with "
            "those in batch and is then tuned over all",
            "semantic IDs from residual k-means in place of an RQ-VAE (3 levels of 256, a digit against collisions)",
            "the beams follow the catalog's trie, where the paper's are free; equally likely items go to the lower id",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root, and an hour on two cores in place of "
            "200,000 steps; weight decay 0.05, on embedding tables, too",
            "an end token closes the history, and none is written behind the codes; a level's softmax runs over its "
            "own codes; attention weights are not dropped",
        ),
        measured="not yet measured",
        backbone=LigerConfig(num_layers=4, width=64, num_heads=4, head_width=16),
        objective=CodesAndVectorsConfig(negatives="seen", temperature=0.07, vector_weight=6.0),
        decoder=DraftedItemsConfig(),
        train=dataclasses.replace(liger().train, weight_decay=0.05, evaluate_beams=None),
    )

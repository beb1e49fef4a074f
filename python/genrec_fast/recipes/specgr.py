"""SpecGR: items drafted by the encoder of the network that writes semantic IDs, and verified by its decoder."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import PooledT5Config
from genrec_fast.decoders import DraftedItemsConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import CodesAndVectorsConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.liger import liger


def specgr() -> Recipe:
    """SpecGR++: one network drafts by its encoder's mean states, of a history and of an item's own semantic ID."""
    return dataclasses.replace(
        liger(),
        name="specgr",
        source="SpecGR, arXiv:2410.02939; settings: Jamesding000/SpecGR, commit ce74660",
        deviations=(
            "SpecGR++ alone, which drafts by the encoder (the paper's other drafter is a UniSRec; with "
            "LigerConfig as backbone, use_features and negatives='seen' it is LIGER's reading of texts)",
            "the first training alone, with 6 times the contrastive loss in batch: the paper's goes on with one over "
            "all items",
            "semantic IDs from residual k-means in place of an RQ-VAE (3 levels of 256, a digit against collisions)",
            "the beams follow the catalog's trie, where the paper's are free; equally likely items go to the lower id",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root, and an hour on two cores in place of "
            "200,000 steps; weight decay 0.05, on embedding tables, too",
            "an end token closes the history, and an item, and counts in the mean; none is written behind the codes; a "
            "level's softmax runs over its own codes; attention weights are not dropped",
        ),
        measured="beauty, seed 0, an hour of a busy core, not trained to its end: Recall@10 .0286, NDCG@10 .0133 with "
        "seen items kept, .0314, .0151 removed (docs/quality.md#what-was-measured: python bench/quality.py specgr "
        "--data beauty)",
        layout=PlainConfig(),
        backbone=PooledT5Config(),
        objective=CodesAndVectorsConfig(negatives="others", temperature=0.07, vector_weight=6.0),
        decoder=DraftedItemsConfig(),
        train=dataclasses.replace(liger().train, weight_decay=0.05, evaluate_beams=None),
    )

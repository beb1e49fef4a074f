"""The transition graph: no training, and a bar that many trained models do not reach."""

from __future__ import annotations

from genrec_fast.backbones import TransitionsConfig
from genrec_fast.decoders import ScanConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import CountingConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


def transitions() -> Recipe:
    """What followed the last items of a history, counted; with ``layout.use_features`` what resembles them, too."""
    return Recipe(
        name="transitions",
        source="sequential rules (SR) of arXiv:1803.09587, section 3.2",
        deviations=(
            "scores are logarithms of the summed weights in place of shares",
            "the last eight items are looked up, each with 0.6 of the weight of its successor, in place of the last",
            "with features the cosine of the items' vectors is added, and popularity orders what is left",
            "training is one pass that counts: the settings of batches and steps are not read",
        ),
        measured="beauty, seen items kept: Recall@10 .0816, NDCG@10 .0502; with features .0921, .0555 "
        "(docs/quality.md#what-was-measured: python bench/quality.py baselines --data beauty)",
        tokenizer=None,
        layout=PlainConfig(),
        backbone=TransitionsConfig(),
        objective=CountingConfig(),
        decoder=ScanConfig(),
        batching=BatchingConfig(max_items=20),
        train=TrainConfig(weight_decay=0.0),
    )

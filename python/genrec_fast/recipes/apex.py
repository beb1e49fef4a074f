"""Apex: a network that writes semantic IDs and scores items, beside a transition graph and the items' texts."""

from __future__ import annotations

from genrec_fast.backbones import FusedConfig, TimelineConfig
from genrec_fast.decoders import ScanConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import CodesAndItemsConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig


def apex() -> Recipe:
    """What counting knows is counted; the network learns alone, and an answer adds up both."""
    return Recipe(
        name="apex",
        source="ours: MARIUS (arXiv:2508.14910) beside the transition graph of arXiv:1803.09587, section 3.2",
        deviations=(
            "the timeline is MARIUS's with two layers in time and one in depth; semantic IDs from residual k-means",
            "its states also score every item, by the cosine with a vector of its own plus its projected features, "
            "over a temperature of 0.07, in a softmax over the whole catalog; the network reads an item by that "
            "vector, too",
            "what followed the last eight items, what resembles them and how often items repeat are counted and never "
            "trained; an answer adds them to the network's score by weights that were best on beauty's validation",
            "an answer is the exact best of all items by these scores; the codes that the network writes have no "
            "part in it: they are a second task of its states, and decoder Beam searches them",
            "where nobody takes an item twice, seen items are as good as removed: compare with others' removed rows",
            "weight decay 0.05, on embedding tables, too",
        ),
        measured="beauty, three seeds: Recall@10 .1060 ± .0006, NDCG@10 .0642 ± .0001 with seen items kept, "
        ".1061 ± .0006, .0644 ± .0001 removed; sports, seed 0: .0654, .0388, kept and removed "
        "(docs/quality.md#apex: python bench/quality.py apex --data beauty --seeds 0 1 2)",
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256)),
        layout=PlainConfig(use_features=True, use_valid_codes=True),
        backbone=FusedConfig(
            timeline=TimelineConfig(
                width=128, num_layers=2, num_depth_layers=1, dropout=0.5, depth_dropout=0.1, max_items=20
            ),
            weights=(1.0, 2.5, 3.75, 2.5),
            residual=False,
        ),
        objective=CodesAndItemsConfig(code_weight=0.25),
        decoder=ScanConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=12, learning_rate=1e-3, schedule="cosine", warmup_steps=150, weight_decay=0.05, evaluate_every=2
        ),
    )

"""MARIUS: one position per item in time, a small transformer that writes the codes."""

from __future__ import annotations

from genrec_fast.backbones import TimelineConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.nn.item_inputs import ItemInputsConfig
from genrec_fast.objectives import CodesAndItemsConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig


def marius() -> Recipe:
    """The timeline system, sized for a quarter of an hour on one core."""
    return Recipe(
        name="marius",
        source="MARIUS, arXiv:2508.14910",
        deviations=(
            "width 128, 3 layers in time and 2 in depth: a quarter of an hour on one core",
            "an item's input is the sum of its code embeddings, a projection of its text features and a vector of its "
            "own; while training, states also score every item by the cosine with that vector plus its projected "
            "features, in a softmax over the catalog: a second task, of which answers have no part, and whose cost "
            "grows with the catalog (with 100,000 items and more, TimelineConfig(items=None) and NextCodeConfig do "
            "without)",
            "the softmax of a level runs over the codes that lead to an item, in training and in the search",
            "semantic IDs from residual k-means of text and co-occurrence vectors side by side, unless others are "
            "given, in place of COSETTE, the paper's own tokenizer, which learns reconstruction and who interacts "
            "with what together",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        measured="beauty, semantic IDs of its own, seed 0: Recall@10 .0831, NDCG@10 .0447 with seen items kept, .0898, "
        ".0502 removed; sports, seed 0: .0493, .0255 and .0535, .0281 (docs/quality.md#what-was-measured: "
        "python bench/quality.py marius --data beauty)",
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256), collaborative_width=64),
        layout=PlainConfig(use_features=True, use_valid_codes=True),
        backbone=TimelineConfig(
            width=128,
            num_layers=3,
            num_depth_layers=2,
            dropout=0.3,
            depth_dropout=0.1,
            max_items=20,
            items=ItemInputsConfig(features=True),
        ),
        objective=CodesAndItemsConfig(code_weight=2.0, valid_only=True),
        decoder=BeamConfig(num_beams=50, normalize="valid"),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=16,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=0.05,
            evaluate_every=2,
            evaluate_beams=20,
        ),
    )

"""KuaiFormer: long histories in groups, several interests per user."""

from __future__ import annotations

from genrec_fast.backbones import KuaiFormerConfig
from genrec_fast.decoders import RetrieveInterestsConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import InBatchConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


def kuaiformer() -> Recipe:
    """Four query tokens behind a history whose early items are compressed; in-batch softmax with log-Q correction."""
    return Recipe(
        name="kuaiformer",
        source="KuaiFormer, arXiv:2411.10057",
        deviations=(
            "histories of 64 items (the last 16 as they are, 24 in groups of 4, the others in groups of 8) in place of "
            "256 (48, 80 in groups of 16, 128 in groups of 64)",
            "items are their ids: no authors, tags or watching times",
            "one item is predicted per row, the next one; no smoothing of the labels",
            "layer sizes are ours: width 128, 4 heads, 2 layers",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=None,
        layout=PlainConfig(),
        backbone=KuaiFormerConfig(
            width=128,
            num_heads=4,
            num_layers=2,
            hidden=256,
            num_queries=4,
            recent=16,
            middle=24,
            middle_group=4,
            early_group=8,
            dropout=0.3,
            max_items=64,
        ),
        objective=InBatchConfig(correct_log_q=True),
        decoder=RetrieveInterestsConfig(),
        batching=BatchingConfig(max_items=64, targets="last", items_per_batch=8192),
        train=TrainConfig(
            epochs=10, learning_rate=1e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05, evaluate_every=1
        ),
    )

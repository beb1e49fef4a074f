"""BERT4Rec: hidden items are predicted from both sides of their row."""

from __future__ import annotations

from genrec_fast.backbones import BidirectionalConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import MaskedItemsConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


def bert4rec() -> Recipe:
    """A bidirectional transformer that is asked with a masked item behind the history."""
    return Recipe(
        name="bert4rec",
        source="BERT4Rec, arXiv:1904.06690",
        deviations=(
            "width 128, histories of 20 items and batches of 1,024 items in place of width 64, 50 items and 256 rows",
            "no bias per item in the scores",
            "dropout of 0.2, and none of the attention's weights, in place of 0.5 and 0.2 (its settings for Beauty)",
            "AdamW at 1e-3 with warm-up and cosine decay in place of 1e-4 and a linear one",
            "the share of rows in which the last item alone is hidden is drawn anew in every epoch",
        ),
        measured="ml-100k, 10 passes, far from trained: Recall@10 .0880, NDCG@10 .0402 (docs/benchmarks.md)",
        tokenizer=None,
        layout=PlainConfig(),
        backbone=BidirectionalConfig(width=128, num_heads=2, num_layers=2, hidden=512, dropout=0.2, max_items=20),
        objective=MaskedItemsConfig(mask_ratio=0.6, last_share=0.1),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=40, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.01, evaluate_every=5
        ),
    )

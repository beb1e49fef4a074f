"""H2Rec: a vector of an item's own for what is often chosen, its codes for what is not, each read by the other."""

from __future__ import annotations

from genrec_fast.backbones import TwoIdsConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import DualAlignmentConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQVAEConfig


def h2rec() -> Recipe:
    """Two branches of width 64, whose states stand side by side as the items' vectors do."""
    return Recipe(
        name="h2rec",
        source="H2Rec, arXiv:2512.10388; form: its code, ziwliu8/H2Rec, commit e65eefb",
        deviations=(
            "cross-entropy over all items in place of a binary one against drawn items",
            "an item is aligned with itself alone: items chosen together are no further positives, and no negatives "
            "are mined",
            "a position's gate reads the vector of its own item, where the published code's reads the last item's for "
            "all; levels are hidden position by position, too",
            "attention between the branches is causal with a projection behind it and nothing added: we did not see "
            "the published one; blocks are pre-norm with ReLU",
            "codes have embeddings of their own, which do not begin as the tokenizer's codebooks; 4 levels of 128 "
            "codes of the dataset's vectors",
            "histories of 20 items; AdamW with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: "
            "ours",
        ),
        tokenizer=RQVAEConfig(codebook_sizes=(128,) * 4, dedup="none"),
        layout=PlainConfig(use_features=True),
        backbone=TwoIdsConfig(max_items=20),
        objective=DualAlignmentConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=12, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.05, evaluate_every=2
        ),
    )

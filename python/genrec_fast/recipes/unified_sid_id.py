"""Unified semantic and ID representations: a narrow vector of its own beside the codes that items share."""

from __future__ import annotations

from genrec_fast.backbones import CausalConfig, ItemInputsConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQVAEConfig


def unified_sid_id() -> Recipe:
    """Of 128 channels 16 are the item's alone, the others the sum of its codes' embeddings."""
    return Recipe(
        name="unified_sid_id",
        source="Unified Semantic and ID Representation Learning, arXiv:2502.16474",
        deviations=(
            "the tokenizer is trained first, in place of end to end with the recommendation loss, and codes have "
            "embeddings of their own",
            "every level takes the nearest code by Euclidean distance, the paper's earlier levels by the cosine",
            "16 channels of the item's own, no text is reconstructed: items are known by the dataset's vectors",
            "cross-entropy over all items; width 128 and pre-norm blocks, histories of 20 items",
            "AdamW with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=RQVAEConfig(codebook_sizes=(256, 256, 256), dedup="none"),
        layout=PlainConfig(),
        backbone=CausalConfig(
            width=128,
            num_heads=2,
            num_layers=2,
            dropout=0.5,
            max_items=20,
            items=ItemInputsConfig(codes="sum", id_width=16),
        ),
        objective=FullSoftmaxConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=12, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.05, evaluate_every=2
        ),
    )

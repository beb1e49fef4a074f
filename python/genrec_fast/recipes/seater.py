"""SEATER: a balanced tree whose nodes have vectors of their own; the decoder goes down to a leaf."""

from __future__ import annotations

from genrec_fast.backbones import SeaterConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import TreeRankingConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import HierarchicalConfig


def seater() -> Recipe:
    """16 children a node, four levels; the way, its ranking among others, and nodes by their parents."""
    return Recipe(
        name="seater",
        source="SEATER, arXiv:2309.13375",
        deviations=(
            "the tree is cut by halving into equal parts in place of constrained k-means with 16 centres, over the "
            "dataset's vectors in place of a trained SASRec's",
            "four levels for up to 65,536 items: where they are fewer, nodes have fewer children",
            "the four items of the ranking are drawn evenly from the catalog",
            "the vector of a node is started with a standard deviation of 0.02; a node's children are hidden from its "
            "contrast, where the published code leaves the pair out of the mean in their place",
            "AdamW at 1e-3 with warm-up and cosine decay in place of Adam, weight decay 1e-05, on embedding tables, "
            "too; batches of 1,024 items",
        ),
        tokenizer=HierarchicalConfig(codebook_sizes=(16, 16, 16, 16), dedup="colliding_only"),
        layout=PlainConfig(use_valid_codes=True),
        backbone=SeaterConfig(width=64, num_layers=1, max_items=20),
        objective=TreeRankingConfig(),
        decoder=BeamConfig(num_beams=50, normalize="valid"),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=30, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=1e-5, evaluate_every=2
        ),
    )

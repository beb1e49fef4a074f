"""RPG: long semantic IDs without an order, all codes predicted at once, found by a walk over a graph of items."""

from __future__ import annotations

from genrec_fast.backbones import ParallelHeadsConfig
from genrec_fast.decoders import GraphConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import AllCodesConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import OPQConfig


def rpg() -> Recipe:
    """The settings for Beauty: 32 codes an item. The validation looks at every item, as the published one does."""
    return Recipe(
        name="rpg",
        source="RPG, arXiv:2506.05781",
        deviations=(
            "width 128 and a feed-forward of 512 in place of 448 and 1,024, histories of 20 items in place of 50, "
            "batches of 1,024 items in place of 256 histories, a learning rate of 0.003 in place of 0.01",
            "items are known by the dataset's vectors, fitted on all items, where the paper takes OpenAI's "
            "text-embedding-3-large, whitened to 512 principal components, and items of the training split",
            "a walk begins at the same random items for all users of a call, and its list is completed by a look at "
            "every item where a filter leaves fewer than k",
            "blocks have ReLU in place of GELU, a layer norm's epsilon of 1e-5 in place of 1e-12 and a start in front "
            "of the history; attention weights are not dropped",
            "scores are sums of log-probabilities in place of means: 32 times as large, in the same order",
            "trained for 30 passes with 300 steps of warm-up in place of up to 150 with 10,000",
        ),
        measured="beauty, seed 0: Recall@10 .0537, NDCG@10 .0302 with seen items kept, .0575, .0332 removed "
        "(docs/quality.md#what-was-measured: python bench/quality.py rpg --data beauty); the paper's is .0809, .0464",
        tokenizer=OPQConfig(codebook_sizes=(256,) * 32, dedup="none"),
        layout=PlainConfig(),
        backbone=ParallelHeadsConfig(
            width=128, num_heads=4, num_layers=2, hidden=512, dropout=0.5, temperature=0.03, max_items=20
        ),
        objective=AllCodesConfig(),
        decoder=GraphConfig(num_beams=20, num_edges=200, num_steps=3),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            learning_rate=3e-3,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=0.0,
            evaluate_every=3,
            evaluate_beams=1 << 30,  # every item
        ),
    )

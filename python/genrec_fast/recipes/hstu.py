"""HSTU for retrieval: attention without a softmax, with a bias of places and times."""

from __future__ import annotations

from genrec_fast.backbones import HSTUConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


def hstu() -> Recipe:
    """The form of the published experiments; data without times needs ``--backbone.bias position``."""
    return Recipe(
        name="hstu",
        source="HSTU, arXiv:2402.17152, the research form (section 4.1.1 and its code)",
        deviations=(
            "cross-entropy over all items in place of a softmax over 128 sampled negatives",
            "width 64 with 2 heads and 4 layers, histories of 50 items: minutes on one core",
            "norms have weights and biases, the projection to u, v, q, k has a bias",
            "silu's weights are divided by 50, the longest history, in place of 61 (50 + 10 + 1); the norm behind "
            "takes that away but for its epsilon",
            "learns from all of a user's transitions, in windows of 50, in place of those of the last 50",
            "validation and test rank the whole catalog, where the published evaluation removes the history's items",
            "AdamW with warm-up and cosine decay, and weight decay 0.05, on embedding tables, too, in place of none",
        ),
        measured="before the norms' epsilon was the published 1e-6 (it was 1e-5): ml-100k, 10 passes, three seeds: "
        "Recall@10 .1234, NDCG@10 .0532; beauty, 12 passes, three seeds: .0735, .0362 (docs/benchmarks.md)",
        tokenizer=None,
        layout=PlainConfig(),
        backbone=HSTUConfig.research(width=64, num_heads=2, num_layers=4, qk_dim=32, v_dim=32, max_items=50),
        objective=FullSoftmaxConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=50, targets="every", items_per_batch=2048),
        train=TrainConfig(
            epochs=16, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.05, evaluate_every=2
        ),
    )

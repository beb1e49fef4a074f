"""HSTU for retrieval: attention without a softmax, with a bias of places and times."""

from __future__ import annotations

from genrec_fast.backbones import HSTUConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.recipe import BatchingConfig, Recipe, TrainConfig

__all__ = ["hstu"]


def hstu() -> Recipe:
    """The form of the published experiments; data without times needs ``--backbone.bias position``."""
    return Recipe(
        name="hstu",
        source="HSTU, arXiv:2402.17152, the research form (section 4.1.1 and its code)",
        deviations=(
            "cross-entropy over all items in place of a softmax over 128 sampled negatives",
            "width 64 with 2 heads and 4 layers, histories of 50 items: minutes on one core",
            "norms have weights and biases, the projection to u, v, q, k has a bias",
            "AdamW with warm-up and cosine decay, weight decay 0.05",
        ),
        measured="ml-100k, 10 passes, three seeds: Recall@10 .1234, NDCG@10 .0532; beauty, 12 passes, three seeds: "
        ".0735, .0362 (docs/benchmarks.md)",
        tokenizer=None,
        layout=PlainConfig(),
        backbone=HSTUConfig.research(width=64, num_heads=2, num_layers=4, qk_dim=32, v_dim=32, max_items=50),
        objective=FullSoftmaxConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=50, targets="every", items_per_batch=2048),
        train=TrainConfig(
            epochs=16,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=0.05,
            evaluate_every=2,
        ),
    )

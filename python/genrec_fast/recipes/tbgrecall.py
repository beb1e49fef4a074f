"""TBGRecall: a token behind every session predicts all items of the next one."""

from __future__ import annotations

from genrec_fast.backbones import SessionsConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig

__all__ = ["tbgrecall"]


def tbgrecall() -> Recipe:
    """Items and session tokens in one causal stream, a softmax over the whole catalog."""
    return Recipe(
        name="tbgrecall",
        source="TBGRecall, arXiv:2508.11977",
        deviations=(
            "items see those before them of their own session, too: the states that predict do not stand there",
            "one plain transformer for items and session tokens; no embeddings of scenes or side features",
            "the loss is a softmax of each item of the next session over the whole catalog, in place of sampled ones",
            "one stage of training; a session ends with a pause of half an hour",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=None,
        layout=PlainConfig(),
        backbone=SessionsConfig(
            form="token", session_seconds=1800, width=128, num_heads=2, num_layers=2, dropout=0.3, max_items=50
        ),
        objective=FullSoftmaxConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=50, targets="every", items_per_batch=2048),
        train=TrainConfig(
            epochs=30,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=0.05,
            evaluate_every=2,
        ),
    )

"""SessionRec: every session is one token, and all items of the next one are predicted at once."""

from __future__ import annotations

from genrec_fast.backbones import SessionsConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


def sessionrec() -> Recipe:
    """Sessions as means of their items, a causal transformer over them, a softmax over the whole catalog."""
    return Recipe(
        name="sessionrec",
        source="SessionRec, arXiv:2502.10157",
        deviations=(
            "a session is the plain mean of its items, positions count sessions",
            "the loss is a softmax of each item of the next session over the whole catalog; the ranking loss against "
            "what was shown and not taken is left out, as the data does not say it",
            "a session ends with a pause of half an hour",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=None,
        layout=PlainConfig(),
        backbone=SessionsConfig(
            form="pooled", session_seconds=1800, width=128, num_heads=2, num_layers=2, dropout=0.3, max_items=50
        ),
        objective=FullSoftmaxConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=50, targets="every", items_per_batch=2048),
        train=TrainConfig(
            epochs=30, learning_rate=1e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05, evaluate_every=2
        ),
    )

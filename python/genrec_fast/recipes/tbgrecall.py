"""TBGRecall: a token behind every session predicts all items of the next one."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import SessionsConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.sessionrec import sessionrec


def tbgrecall() -> Recipe:
    """Items and session tokens in one causal stream, a softmax over the whole catalog."""
    return dataclasses.replace(
        sessionrec(),
        name="tbgrecall",
        source="TBGRecall, arXiv:2508.11977",
        deviations=(
            "items see those before them of their own session, too: the states that predict do not stand there",
            "one plain transformer for items and session tokens; no embeddings of scenes or side features",
            "the loss is a softmax of each item of the next session over the whole catalog, in place of sampled ones",
            "one stage of training; a session ends with a pause of half an hour",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        backbone=SessionsConfig(
            form="token", session_seconds=1800, width=128, num_heads=2, num_layers=2, dropout=0.3, max_items=50
        ),
    )

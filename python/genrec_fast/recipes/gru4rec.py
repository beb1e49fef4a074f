"""GRU4Rec: a recurrent network, the oldest of the sequential baselines."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import GRUConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.sasrec import sasrec


def gru4rec() -> Recipe:
    """``sasrec`` over one layer of gated recurrent units."""
    return dataclasses.replace(
        sasrec(),
        name="gru4rec",
        source="GRU4Rec, arXiv:1511.06939; constrained embeddings and cross-entropy as in arXiv:1706.03847",
        deviations=(
            "cross-entropy over all items in place of the batch's and 2,048 sampled ones",
            "whole histories of a user in place of anonymous sessions in parallel, whose state runs on between batches",
            "a projection and a layer norm between the units and the scores; no bias per item",
            "AdamW with warm-up and cosine decay, and weight decay 0.05, on embedding tables, too, in place of Adagrad",
        ),
        measured="ml-100k, 10 passes, three seeds: Recall@10 .1255, NDCG@10 .0579 (docs/benchmarks.md)",
        backbone=GRUConfig(width=128, hidden=128, num_layers=1, dropout=0.5, max_items=20),
    )

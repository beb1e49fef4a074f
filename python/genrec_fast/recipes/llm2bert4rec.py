"""LLM2BERT4Rec: BERT4Rec whose item embeddings begin as what a language model made of the items."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import BidirectionalConfig, ItemInputsConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.bert4rec import bert4rec


def llm2bert4rec() -> Recipe:
    """``bert4rec`` started from the principal components of the dataset's vectors, and trained as ever."""
    made = bert4rec()
    return dataclasses.replace(
        made,
        name="llm2bert4rec",
        source="LLM2BERT4Rec, arXiv:2309.09261",
        deviations=(
            "items are known by the dataset's vectors in place of a language model's of their texts",
            "the components are scaled to the spread that the embeddings would be drawn with",
            "weight decay 0.01, on embedding tables, too, as BERT4Rec has it",
            *made.deviations,
        ),
        measured="not yet measured",
        layout=PlainConfig(use_features=True),
        backbone=BidirectionalConfig(
            width=128,
            num_heads=2,
            num_layers=2,
            hidden=512,
            dropout=0.2,
            max_items=20,
            items=ItemInputsConfig(start="features"),
        ),
    )

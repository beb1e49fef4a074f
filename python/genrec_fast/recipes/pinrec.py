"""PinRec: several of the next items from one state, sampled softmax."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import PinRecConfig
from genrec_fast.decoders import RetrieveInterestsConfig
from genrec_fast.objectives import MultiTokenConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.sasrec import sasrec


def pinrec() -> Recipe:
    """The multi-token form: a token per item to come, and an item's score is that of its best token."""
    return dataclasses.replace(
        sasrec(),
        name="pinrec",
        source="PinRec, arXiv:2504.10507, the multi-token form",
        deviations=(
            "not conditioned on outcomes: the head is conditioned on the place of the item to come alone",
            "token i is asked for the i-th item to come, with no freedom of order inside the window",
            "items are their ids, without the features of pins; tokens are not fed back to write further ones",
            "width 128, 2 layers, histories of 20 items, 512 negatives by popularity",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        measured="not yet measured",
        backbone=PinRecConfig(width=128, num_heads=2, num_layers=2, num_tokens=4, dropout=0.5, max_items=20),
        objective=MultiTokenConfig(num_negatives=512),
        decoder=RetrieveInterestsConfig(),
    )

"""GenRank: actions are what is written, items say where; half the tokens of a stream of both."""

from __future__ import annotations

import dataclasses

from genrec_fast.layouts import InterleaveConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.hstu_ranking import SIZES, hstu_ranking


def genrank() -> Recipe:
    """``hstu_ranking`` over one token per event: the action before it, and its item."""
    return dataclasses.replace(
        hstu_ranking(),
        name="genrank",
        source="GenRank, arXiv:2505.04180, section 3",
        deviations=(
            "no public code: the stream is the paper's, the layers and heads are those of hstu_ranking",
            "a learned bias of times in place of its biases without parameters, of positions and times",
            "items are their ids and no further features",
            *SIZES,
        ),
        measured="not yet measured",
        layout=InterleaveConfig(actions="before"),
    )

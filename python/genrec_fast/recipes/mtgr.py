"""MTGR: candidates side by side behind one history, and norms that know what kind of token they see."""

from __future__ import annotations

import dataclasses

from genrec_fast.layouts import InterleaveConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.hstu_ranking import BACKBONE, SIZES, hstu_ranking


def mtgr() -> Recipe:
    """The last eight events of a row are asked together, each seeing the history before the first and itself."""
    return dataclasses.replace(
        hstu_ranking(),
        name="mtgr",
        source="MTGR, arXiv:2505.18654, section 3",
        deviations=(
            "no public code: user, items with their actions, and candidates are the tokens; there are no cross "
            "features of a user with a candidate, which the data does not have",
            "one history, read causally, in place of a long one that everybody sees and a recent one masked by time; "
            "the token of the user sees the whole history",
            *SIZES,
        ),
        measured="not yet measured",
        layout=InterleaveConfig(actions="added", num_candidates=8, num_user_buckets=1000),
        backbone=dataclasses.replace(BACKBONE, norms_by_kind=True, num_contexts=1000),
    )

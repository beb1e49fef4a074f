"""DFGR: every event is read with what was done, and asked about in a second flow that does not know it."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import DualFlowConfig
from genrec_fast.layouts import InterleaveConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.hstu_ranking import SIZES, hstu_ranking


def dfgr() -> Recipe:
    """``hstu_ranking`` over one token per event, in a real and a fake flow; a single flow answers."""
    return dataclasses.replace(
        hstu_ranking(),
        name="dfgr",
        source="DFGR, arXiv:2505.16752, as its abstract and reviews of it have it",
        deviations=(
            "no public code: the two flows are the paper's, layers and heads are those of hstu_ranking",
            "a fake token reads its own key and value beside the real ones before it, as a candidate does when it is "
            "asked; whether the paper's does in training we did not find",
            "a learned bias of times; all earlier events are seen, those of the same session too",
            "items are their ids, without a user's profile",
            *SIZES,
        ),
        measured="not yet measured",
        layout=InterleaveConfig(actions="two_flows"),
        backbone=DualFlowConfig(
            width=64,
            num_heads=2,
            num_layers=2,
            qk_dim=32,
            v_dim=32,
            bias="time",
            num_actions=2,
            max_items=50,
            max_tokens=256,
        ),
    )

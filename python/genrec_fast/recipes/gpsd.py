"""GPSD, the second stage: ranking by a network that learned to predict items, whose embeddings stay what they are."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import ItemInputsConfig
from genrec_fast.layouts import InterleaveConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.gpsd_pretraining import BACKBONE, NETWORK
from genrec_fast.recipes.hstu_ranking import SIZES, hstu_ranking


def gpsd() -> Recipe:
    """``gf.train(gpsd(), data, start=model)`` of a model of ``gpsd_pretraining``; the item embeddings are frozen."""
    return dataclasses.replace(
        hstu_ranking(),
        name="gpsd",
        source="GPSD, arXiv:2506.03699, discriminative training with sparse freeze",
        deviations=(*NETWORK, *SIZES),
        measured="not yet measured",
        layout=InterleaveConfig(actions="none"),
        backbone=dataclasses.replace(BACKBONE, items=ItemInputsConfig(learned_ids=False)),
    )

"""EARN: registers at both ends of the prompt, which alone go on behind the first layers."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import EarnConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.nezha import nezha


def earn() -> Recipe:
    """The published idea, on a small transformer of its own."""
    return dataclasses.replace(
        nezha(),
        name="earn",
        source="EARN, arXiv:2507.00715, of which we know the abstract and public summaries",
        deviations=(
            "a transformer of 6 layers over codes, trained from nothing, in place of a tuned language model over a "
            "prompt of words",
            "one register at each end, and the first 2 of the 6 layers read the history: how many of each the paper "
            "takes, and where in its layers it cuts, we have not read",
            "positions are learned and counted from the newest code; registers and written codes have their own: which "
            "positions the paper leaves to the tokens that go on, we have not read",
            "training cuts as the search does, and its loss is that of the codes alone; the paper's we have not read",
            "the catalog's trie constrains the search; 50 beams",
            "semantic IDs from residual k-means, 3 levels of 512 and a digit against collisions",
            "AdamW at 1e-3 with a cosine and batches of 1,024 items",
        ),
        measured="not yet measured",
        backbone=EarnConfig(),
    )

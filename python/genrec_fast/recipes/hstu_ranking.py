"""HSTU for ranking: what will the user do with this item? Items and actions take turns in one stream."""

from __future__ import annotations

from genrec_fast.backbones import HSTUConfig
from genrec_fast.decoders import RankConfig
from genrec_fast.layouts import InterleaveConfig
from genrec_fast.objectives import MultiTaskConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig

# What the recipes of ranking share.
ACTIONS = ("rating>=4", "rating>=5")
BACKBONE = HSTUConfig(
    width=64,
    num_heads=2,
    num_layers=2,
    qk_dim=32,
    v_dim=32,
    bias="time",
    num_actions=len(ACTIONS),
    max_items=50,
    max_tokens=256,
)
SIZES = (
    "the actions are thresholds of a rating (at least 4, at least 5) in place of clicks and likes",
    "a head of two layers per set of actions, all of one weight, and no mixture of experts",
    "width 64 with 2 heads and 2 layers, histories of 50 items with their actions: minutes on one core",
    "weight decay 0.05, on embedding tables, too: ours",
    "the best epoch is the one with the lowest normalised entropy of the validation's next actions",
)


def hstu_ranking() -> Recipe:
    """Data need actions and times: ``data.load(folder, actions=("rating>=4", "rating>=5"))``, which the CLI does."""
    return Recipe(
        name="hstu_ranking",
        source="HSTU, arXiv:2402.17152, section 2.2 (ranking); heads as in MTGR, arXiv:2505.18654, and GenRank, "
        "arXiv:2505.04180",
        deviations=(*SIZES, "relative bias of times alone: candidates stand side by side and have no order"),
        measured="before the norms' epsilon was the published 1e-6 (it was 1e-5): ml-100k, 8 epochs, seed 0: "
        "AUC .792 and .773, normalised entropy .799 and .854 (rating at least 4, at least 5), test, one CPU core",
        tokenizer=None,
        layout=InterleaveConfig(actions="tokens"),
        backbone=BACKBONE,
        objective=MultiTaskConfig(actions=ACTIONS),
        decoder=RankConfig(candidates_per_pass=128),
        batching=BatchingConfig(max_items=50, targets="every", items_per_batch=2048),
        train=TrainConfig(
            epochs=20,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=0.05,
            evaluate_every=2,
            evaluate_users=200,
        ),
    )

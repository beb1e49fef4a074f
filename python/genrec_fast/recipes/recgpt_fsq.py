"""RecGPT: codes of a grid that nobody learns, and a network that writes all codes of the next item from one state."""

from __future__ import annotations

from genrec_fast.backbones import RecGPTConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import FSQConfig


def recgpt_fsq() -> Recipe:
    """Four codes of 8 x 8 x 8 x 6 x 5 steps an item; attention is causal by items and whole within one."""
    return Recipe(
        name="recgpt_fsq",
        source="RecGPT, arXiv:2506.06270",
        deviations=(
            "one data set from the start in place of training on several to answer others",
            "the features beside the codes are the dataset's vectors, in place of what an autoencoder of texts gives",
            "width 128 with 4 heads in place of 768 with 12; no dropout of the attention's weights",
            "the tokenizer's autoencoder has one hidden layer of 256 and 1,000 steps",
            "AdamW at 1e-3 with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: ours",
            "a beam of 20 on every level, where the published code keeps the best 10 first codes and 5 of each after; "
            "it divides logits by 0.1, which changes no order, as a level's logits are the same for all beams",
        ),
        tokenizer=FSQConfig(steps=((8, 8, 8, 6, 5),) * 4, dedup="none"),
        layout=PlainConfig(use_features=True),
        backbone=RecGPTConfig(),
        objective=NextCodeConfig(),
        decoder=BeamConfig(num_beams=20),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=24, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.05, evaluate_every=2
        ),
    )

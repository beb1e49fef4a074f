"""COBRA: a coarse semantic ID first, then a vector that says which of its items is meant."""

from __future__ import annotations

from genrec_fast.backbones import CobraConfig
from genrec_fast.decoders import BeamFusionConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import CodesAndVectorsConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig


def cobra() -> Recipe:
    """The paper's system, sized for half an hour on two cores."""
    return Recipe(
        name="cobra",
        source="COBRA, arXiv:2503.02453; settings: a re-implementation, phonism/genrec, commit b027224",
        deviations=(
            "width 128 in place of 768, 4 heads in place of 6",
            "items are known by the dataset's vectors and an MLP over them, where the paper trains a text encoder "
            "end to end",
            "semantic IDs of 2 levels of 64 codes from residual k-means, shared by the items that have the same, in "
            "place of a learned RQ-VAE",
            "both softmaxes of BeamFusion run over all beams and candidates of a user, as the paper does not say over "
            "which; code_weight 1 and vector_weight 16 are ours",
            "the beam search follows the catalog's trie",
            "AdamW at 1e-3 with 300 steps of warm-up and a cosine in place of 1e-4",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(64, 64), dedup="none"),
        layout=PlainConfig(use_features=True),
        backbone=CobraConfig(),
        objective=CodesAndVectorsConfig(negatives="batch", temperature=0.2),
        decoder=BeamFusionConfig(num_beams=20),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            max_minutes=30.0,
            learning_rate=1e-3,
            warmup_steps=300,
            weight_decay=0.05,
            evaluate_every=2,
            evaluate_users=2000,
            evaluate_beams=20,
        ),
    )

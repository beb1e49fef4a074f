"""LIGER: semantic IDs written by a T5, and ranked with what nobody has bought yet by what their texts say."""

from __future__ import annotations

from genrec_fast.backbones import LigerConfig
from genrec_fast.decoders import RerankConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import CodesAndVectorsConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig


def liger() -> Recipe:
    """The paper's system, with four layers of TIGER's and an hour on two cores."""
    return Recipe(
        name="liger",
        source="LIGER, arXiv:2411.18814; settings: facebookresearch/liger, commit b6ccc37",
        deviations=(
            "semantic IDs from residual k-means in place of an RQ-VAE (3 levels of 256, a digit against collisions)",
            "4 layers in encoder and decoder in place of 6, and an hour on two cores in place of 200,000 steps of 256 "
            "histories",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root, in place of 3e-4, 10,000 and a cosine",
            "weight decay 0.035, on embedding tables, too",
            "items are known by the dataset's vectors, where the paper encodes texts with Sentence-T5-XXL",
            "an end token closes the history, whose state is the user's vector, and none is written behind the codes, "
            "where a T5 of Hugging Face learns to write one",
            "the beam search follows the catalog's trie, where the paper's is free and drops sequences that name no "
            "item",
            "a level's softmax runs over its own codes; attention weights are not dropped",
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256)),
        layout=PlainConfig(use_features=True),
        backbone=LigerConfig(num_layers=4),
        objective=CodesAndVectorsConfig(negatives="seen", temperature=0.07),
        decoder=RerankConfig(num_beams=20),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            max_minutes=60.0,
            learning_rate=1e-3,
            schedule="inverse_sqrt",
            warmup_steps=500,
            weight_decay=0.035,
            evaluate_every=1,
            evaluate_users=2000,
            evaluate_beams=20,
        ),
    )

"""EAGER: codes of behaviour and codes of meaning, a decoder for each, and one ranking by both."""

from __future__ import annotations

from genrec_fast.backbones import EagerConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import TwoTreesConfig


def eager() -> Recipe:
    """Two trees of 128 x 128 clusters, one encoder, two decoders of two layers, 100 beams."""
    return Recipe(
        name="eager",
        source="EAGER, arXiv:2406.14017, and its public code as its script runs it, without the contrast of summary "
        "tokens and the guided reconstruction, which the script has switched off",
        deviations=(
            "the tree of behaviour stands over eigenvectors of the co-occurrence graph in place of a trained DIN's "
            "item vectors; both are cut into equal parts by halving in place of k-means with 128 centres",
            "one search over both trees' codes end to end ranks items by the sum of both decoders' log-probabilities, "
            "where the paper searches each tree, joins both lists and ranks them by that sum",
            "a softmax runs over the children that a node has, where the published code's runs over 128, empty ones "
            "included",
            "the mean over all levels, half the published sum of both decoders' means",
            "norms follow the sums as in BERT; a way's places are learned, and the encoder reads no token of its own",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root, in place of Adam with amsgrad; weight "
            "decay 0.01, on embedding tables, too; batches of 1,024 items in place of 256 histories",
        ),
        tokenizer=TwoTreesConfig(codebook_sizes=(128, 128)),
        layout=PlainConfig(),
        backbone=EagerConfig(),
        objective=NextCodeConfig(),
        decoder=BeamConfig(num_beams=100),
        batching=BatchingConfig(max_items=19, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            max_minutes=60.0,
            learning_rate=1e-3,
            schedule="inverse_sqrt",
            warmup_steps=500,
            weight_decay=0.01,
            evaluate_every=2,
            evaluate_beams=20,
        ),
    )

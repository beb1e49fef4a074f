"""TIGER: a T5 that reads a history of codes and writes the codes of the next item."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import CausalT5Config, T5Config
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig

# What T5 and the search deviate in, wherever they stand.
_LEVELS = "a level's softmax runs over its own codes; attention weights are not dropped"
NETWORK = (
    "an end token closes the history and none is written behind the codes, where a T5 of Hugging Face learns to "
    "write one",
    _LEVELS,
)
SEARCH = "the beam search follows the catalog's trie, where the paper's is free and drops sequences that name no item"
HEAD = (
    "the head has weights of its own and no factor, where a T5 of Hugging Face takes the embeddings times width ** -0.5"
)


def published() -> Recipe:
    """The paper's network and its one target a reading, from which other recipes go on."""
    return Recipe(
        name="tiger",
        source="TIGER, arXiv:2305.05065",
        deviations=(
            "semantic IDs from residual k-means in place of an RQ-VAE (3 levels of 256, a digit against collisions)",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root: the paper holds 0.01 for 10,000 steps "
            "of 200,000, and an hour on two cores has a few thousand",
            "weight decay 0.035, on embedding tables, too",
            "items are known by the dataset's vectors, where the paper encodes title, price, brand and category with "
            "Sentence-T5",
            *NETWORK,
            HEAD,
            SEARCH,
            "batches of 1,024 items in place of 256 histories",
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256)),
        layout=PlainConfig(use_users=True),
        backbone=T5Config(),
        objective=NextCodeConfig(),
        decoder=BeamConfig(num_beams=30),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            max_minutes=60.0,
            learning_rate=1e-3,
            schedule="inverse_sqrt",
            warmup_steps=500,
            weight_decay=0.035,
            beta2=0.999,
            evaluate_every=1,
            evaluate_users=2000,
            evaluate_beams=10,
            patience=0,
        ),
    )


def tiger() -> Recipe:
    """The paper's network, made to learn within an hour of one core."""
    made = published()
    return dataclasses.replace(
        made,
        deviations=(
            "the encoder is causal, so that one reading of a history trains all its positions (CausalT5), where the "
            "paper reads each of its beginnings on its own: about 2.5 times the passes in the same time; "
            'T5Config() with targets="last" is the paper\'s',
            "semantic IDs from residual k-means of text and co-occurrence vectors side by side in place of an RQ-VAE "
            "of text (3 levels of 256, a digit against collisions)",
            "the softmax of a level runs over the codes that lead to an item, in training and in the search",
            "dropout 0.2 in place of 0.1: 14 passes in an hour, where a history comes back in each",
            "AdamW at 1e-3 with 300 steps of warm-up, then a cosine: the paper holds 0.01 for 10,000 steps of 200,000, "
            "and an hour has about 2,000",
            "weight decay 0.035, on embedding tables, too",
            "items are known by the dataset's vectors, where the paper encodes title, price, brand and category with "
            "Sentence-T5",
            "no end token closes the history, and none is written behind the codes, where a T5 of Hugging Face learns "
            "to write one",
            _LEVELS,
            HEAD,
            SEARCH,
            "batches of 1,024 items in place of 256 histories",
        ),
        measured="beauty, semantic IDs of its own, seed 0, an hour: Recall@10 .0556, NDCG@10 .0275 with seen items "
        "kept, .0627, .0325 removed (docs/quality.md#what-was-measured: python bench/quality.py tiger --data beauty)",
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256), collaborative_width=64),
        layout=PlainConfig(use_users=True, use_valid_codes=True),
        backbone=CausalT5Config(dropout=0.2),
        objective=NextCodeConfig(valid_only=True),
        decoder=BeamConfig(num_beams=30, normalize="valid"),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=dataclasses.replace(made.train, epochs=14, schedule="cosine", warmup_steps=300, evaluate_every=2),
    )

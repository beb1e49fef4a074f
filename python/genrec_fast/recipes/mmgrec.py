"""MMGRec: items read as a set, in attention that a user's own scalar bends, and codes that know who chose what."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import MMGRecConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, SEARCH, published
from genrec_fast.tokenizers import CoOccurrenceConfig, RQVAEConfig


def mmgrec() -> Recipe:
    """The relation-aware encoder of its code, over an RQ-VAE that learns co-occurrence."""
    return dataclasses.replace(
        published(),
        name="mmgrec",
        source="MMGRec, arXiv:2404.16555, and the public code of its network; that of its tokenizer is not public",
        deviations=(
            "an RQ-VAE of one vector an item, with a contrast of items that stand together, in place of Graph RQ-VAE, "
            "whose encoder is a graph network over several modalities and the interactions",
            "the digit behind three codes counts items of equal codes by their number, where the paper's popularity "
            "token counts them by popularity",
            "the encoder reads a learned projection of the dataset's vectors in place of fixed vectors of the graph "
            "network, and a user is the mean of the history's in place of the graph network's vector",
            "the last 20 items of a history, the target not among them, where the published code reads all items of a "
            "user in training, the target included",
            "T5's decoder of two layers in place of one with norms behind its sums and sinusoidal positions",
            "a level's softmax runs over its own codes, and no end is written; attention weights are not dropped",
            "tiger's optimizer and schedule, weight decay 0.035, on embedding tables, too, and batches of 1,024 items, "
            "in place of SGD at 1e-3 with momentum 0.99",
            "1,000 steps and one hidden layer of 512 in the tokenizer are ours",
            HEAD,
            SEARCH,
        ),
        tokenizer=RQVAEConfig(codebook_sizes=(256, 256, 256), latent_dim=64, regularisers=(CoOccurrenceConfig(),)),
        layout=PlainConfig(use_features=True),
        backbone=MMGRecConfig(),
    )

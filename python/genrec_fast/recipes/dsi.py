"""DSI: an item's ID is its path in a tree of clusters, and a network writes it."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import T5Config
from genrec_fast.layouts import PlainConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, published
from genrec_fast.tokenizers import HierarchicalConfig


def dsi() -> Recipe:
    """Four levels of ten clusters and the number within the leaf; histories take the place of queries."""
    return dataclasses.replace(
        published(),
        name="dsi",
        source="DSI, arXiv:2202.06991, section 3.2 (semantically structured identifiers)",
        deviations=(
            "a retrieval system brought to recommendation: a history of semantic IDs is the query, items are documents",
            "retrieval alone is trained: the network reads codes and no texts, from which the paper also writes the "
            "identifiers (indexing)",
            "clusters of one size, and four levels for all documents, where the paper splits clusters of more than 100",
            "every level has codes of its own, where the paper writes digits of one vocabulary",
            "a new T5 of TIGER's size with tiger's optimizer and schedule, weight decay 0.035, on embedding tables, "
            "too, in place of a pre-trained one",
            HEAD,
            *NETWORK,
        ),
        tokenizer=HierarchicalConfig(codebook_sizes=(10, 10, 10, 10)),
        layout=PlainConfig(),
        backbone=T5Config(num_user_tokens=0),
    )

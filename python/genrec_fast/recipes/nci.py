"""NCI: what a code means depends on those before it, so the head is made for each prefix."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import NCIConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import ConsistentCodeConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, published
from genrec_fast.tokenizers import HierarchicalConfig


def nci() -> Recipe:
    """Three levels of 30 clusters, a prefix-aware head, and two passes of dropout that shall agree."""
    return dataclasses.replace(
        published(),
        name="nci",
        source="NCI, arXiv:2206.02743",
        deviations=(
            "a retrieval system brought to recommendation: a history of semantic IDs is the query, items are documents",
            "no queries are made of documents' texts: the network reads codes and learns from histories",
            "clusters of one size cut by halving, three levels for all documents, in place of k-means with 30 centres "
            "where more than 30 are left",
            "the disagreement of two passes is a mean over the batch, where the published code sums over it",
            "the decoder's states reach the prefix's matrices with a factor of their own, drawn small, in place of "
            "one factor width ** -0.5 for all of the head",
            "a new T5 of TIGER's size with tiger's optimizer and schedule, weight decay 0.035, on embedding tables, "
            "too, in place of a pre-trained one of base size",
            HEAD,
            *NETWORK,
        ),
        tokenizer=HierarchicalConfig(codebook_sizes=(30, 30, 30), dedup="colliding_only"),
        layout=PlainConfig(),
        backbone=NCIConfig(num_user_tokens=0),
        objective=ConsistentCodeConfig(),
    )

"""ColaRec: collaborative codes that one network writes from histories and from the items' own contents."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import ColaRecConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import ItemIndexingConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, published
from genrec_fast.tokenizers import CollaborativeConfig


def colarec() -> Recipe:
    """A tree over who was chosen with whom, 32 children a node; retrieval, indexing and two rankings at once."""
    made = published()
    return dataclasses.replace(
        made,
        name="colarec",
        source="ColaRec, arXiv:2403.18480",
        deviations=(
            "the tree stands over eigenvectors of the co-occurrence graph in place of a trained LightGCN's vectors, is "
            "cut into equal parts; with more than 32,768 items a digit tells those of one leaf apart",
            "an item's content is one token, a projection of the dataset's vector, in place of the words of its text",
            "an item is read by itself, where the paper adds one of the users who chose it",
            "a history keeps its order and its last 20 items, where the published code draws from it in training and "
            "turns the order round in tests",
            "relatives of an item are those that share its first two codes, as the published code's names tell",
            "a new T5 of TIGER's size, without its user token, in place of a pre-trained T5-small",
            "AdamW at 5e-4 with 500 steps of warm-up, then inverse square root; weight decay 0.035, on embedding "
            "tables, too; batches of 1,024 items in place of 128 histories",
            "a level's softmax runs over its own codes; attention weights are not dropped",
            HEAD,
        ),
        tokenizer=CollaborativeConfig(codebook_sizes=(32, 32, 32), dedup="colliding_only"),
        layout=PlainConfig(use_features=True),
        backbone=ColaRecConfig(),
        objective=ItemIndexingConfig(),
        decoder=BeamConfig(num_beams=100),
        train=dataclasses.replace(made.train, learning_rate=5e-4),
    )

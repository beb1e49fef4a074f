"""RecBase: concept IDs whose levels are learned one after the other, and a network that writes them."""

from __future__ import annotations

from genrec_fast.backbones import TimelineConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQVAEConfig


def recbase() -> Recipe:
    """The published tokenizer, CL-VAE, and a network of this library over its codes alone."""
    return Recipe(
        name="recbase",
        source="RecBase, arXiv:2509.03131; the tokenizer: its code, reczoo/RecBase, commit 911a5c3",
        deviations=(
            "one data set from the start, in place of training on many to answer others without having seen them",
            "a transformer over items and one over the codes of an item in place of a single decoder, as large as a "
            "language model, over all codes in a row, whose code is not public",
            "each level starts by k-means of what the levels before leave when it joins; the second to the "
            "fourth join at a sixth, a third and a half of the steps, there after 5, 10 and 15 passes over the items",
            "4 levels of 256 codes, one hidden layer of 512 and 2,000 steps are ours; items are known by the dataset's "
            "vectors; codes that nothing falls to are moved onto vectors of the batch",
            "the term of the code's entropy is left out: it is made of counts, and no gradient passes it",
            "the beam search follows the catalog's trie",
            "AdamW with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=RQVAEConfig(
            codebook_sizes=(256,) * 4,
            latent_dim=64,
            decay=None,
            commitment=0.25,
            autoencoder_share=0.0,
            curriculum=0.5,
            steps=2000,
        ),
        layout=PlainConfig(),
        backbone=TimelineConfig(
            width=128, num_layers=3, num_depth_layers=2, dropout=0.3, depth_dropout=0.1, max_items=20
        ),
        objective=NextCodeConfig(),
        decoder=BeamConfig(num_beams=30),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=16,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=0.05,
            evaluate_every=2,
            evaluate_beams=20,
        ),
    )

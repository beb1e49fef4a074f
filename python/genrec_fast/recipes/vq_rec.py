"""VQ-Rec: an item is the mean of the embeddings of its codes, and nothing else."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import CausalConfig, ItemInputsConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.sasrec import sasrec
from genrec_fast.tokenizers import OPQConfig


def vq_rec() -> Recipe:
    """Codes of product quantization read by ``sasrec``, cosines over a temperature against all items' code means."""
    return dataclasses.replace(
        sasrec(),
        name="vq_rec",
        source="VQ-Rec, arXiv:2210.12316",
        deviations=(
            "one data set from the start: no training on others before, with mixed and half-synthetic negatives, and "
            "no permutation of the codes that carries it over",
            "32 codes of the dataset's vectors in place of BERT's of the items' texts",
            "width 128 in place of 300 and pre-norm blocks in place of post-norm",
            "AdamW with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: ours",
        ),
        measured="not yet measured",
        tokenizer=OPQConfig(codebook_sizes=(256,) * 32, rotations=50, dedup="none"),
        backbone=CausalConfig(
            width=128,
            num_heads=2,
            num_layers=2,
            hidden=256,
            dropout=0.5,
            normalize=True,
            temperature=0.07,
            max_items=20,
            items=ItemInputsConfig(ids=False, codes="mean"),
        ),
    )

"""VQ-Rec: an item is the mean of the embeddings of its codes, and nothing else."""

from __future__ import annotations

from genrec_fast.backbones import CausalConfig, ItemInputsConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import OPQConfig

__all__ = ["vq_rec"]


def vq_rec() -> Recipe:
    """Codes of product quantization read by SASRec, cosines over a temperature against all items' code means."""
    return Recipe(
        name="vq_rec",
        source="VQ-Rec, arXiv:2210.12316",
        deviations=(
            "one data set from the start: no training on others before, with mixed and half-synthetic negatives, and "
            "no permutation of the codes that carries it over",
            "32 codes of the dataset's vectors in place of BERT's of the items' texts",
            "width 128 in place of 300 and pre-norm blocks in place of post-norm",
            "AdamW with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=OPQConfig(codebook_sizes=(256,) * 32, rotations=50, dedup="none"),
        layout=PlainConfig(),
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
        objective=FullSoftmaxConfig(),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=12, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.05, evaluate_every=2
        ),
    )

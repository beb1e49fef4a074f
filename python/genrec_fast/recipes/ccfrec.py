"""CCFRec: codes ask the views of an item what they need, and learn to be told from each other."""

from __future__ import annotations

from genrec_fast.backbones import CodeFusionConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import MaskedFusionConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import PQConfig


def ccfrec() -> Recipe:
    """Sixteen codes an item over four views of it; items are ranked by cosines."""
    return Recipe(
        name="ccfrec",
        source="CCFRec, arXiv:2503.12183; weights: the README of its code, BishopLiu/CCFRec, commit 69907e3; terms: a "
        "repository that goes on from its code, Forget1015/CCFRec, commit 1ac89a8",
        deviations=(
            "a view is a slice of the dataset's vector in place of an encoding of the title, brand, features, "
            "categories or description; 4 views of 4 codes each, sliced alike, in place of 5",
            "views are projected from their slices in place of PCA to the network's width",
            "one layer of fusion, and one learned vector for hidden codes of all levels: we did not find how many, and "
            "what is read there",
            "1,024 negatives drawn per step in place of 24,000",
            "the history's blocks are pre-norm and begin with a start vector; hidden width 512 and ReLU",
            "histories of 20 items, batches of 1,024 items in place of 400 histories",
            "AdamW with warm-up and cosine decay; weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=PQConfig(codebook_sizes=(256,) * 16, dedup="none"),
        layout=PlainConfig(use_features=True),
        backbone=CodeFusionConfig(
            width=128, num_heads=2, num_layers=2, hidden=512, dropout=0.3, fusion_dropout=0.3, max_items=20
        ),
        objective=MaskedFusionConfig(num_negatives=1024),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=12, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.05, evaluate_every=2
        ),
    )

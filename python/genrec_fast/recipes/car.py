"""CAR: an item's codes and the item itself are one chunk, which is predicted at once."""

from __future__ import annotations

from genrec_fast.backbones import ParallelHeadsConfig
from genrec_fast.decoders import ScanCodesConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import AllCodesConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig


def car() -> Recipe:
    """Chunk by chunk over items; within a chunk, codes and item are predicted from one state."""
    return Recipe(
        name="car",
        source="CAR, arXiv:2506.23643, of which we know the abstract and summaries alone",
        deviations=(
            "no code is public: a chunk is one position, the mean of the embeddings of its codes and its item, where "
            "the paper's transformer reads its tokens one by one",
            "all codes and the item are predicted by heads over one state, cosines over a temperature with the tables "
            "that the input is read from; losses and log-probabilities of all of them weigh the same",
            "every item is scored, in place of a search",
            "sizes and training are ours: width 128, 2 layers, histories of 20 items, AdamW without weight decay",
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256), dedup="none"),
        layout=PlainConfig(),
        backbone=ParallelHeadsConfig(
            width=128,
            num_heads=2,
            num_layers=2,
            hidden=512,
            dropout=0.5,
            block_dropout=0.2,
            temperature=0.07,
            predict_items=True,
            max_items=20,
        ),
        objective=AllCodesConfig(),
        decoder=ScanCodesConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=20, learning_rate=1e-3, schedule="cosine", warmup_steps=300, weight_decay=0.0, evaluate_every=2
        ),
    )

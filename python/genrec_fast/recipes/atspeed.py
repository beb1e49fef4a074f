"""AtSpeed: a draft aligned with the network that it runs ahead of, whose beam search it makes shorter."""

from __future__ import annotations

from genrec_fast.backbones import T5Config
from genrec_fast.decoders import SpeculativeConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import DraftAlignmentConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig

__all__ = ["atspeed"]


def atspeed() -> Recipe:
    """Trained with ``start=``, a model of ``tiger``: only the draft learns."""
    return Recipe(
        name="atspeed",
        source="AtSpeed, arXiv:2410.05165, strict; settings: Linxyhaha/AtSpeed, commit 93bc886",
        deviations=(
            "the target is TIGER's T5, where the paper's is LC-Rec's LLaMA-7B, and the draft a T5 of one layer and a "
            "tenth of its weights in place of a LLaMA of 68M",
            "the first level is the target's own, from its reading of the history, and not drafted; rows that were "
            "read are not read again; users of a batch accept different depths, where the paper's code has one user",
            "the loss compares distributions as they are, without a second softmax over the likeliest codes",
            "prefixes are those of the item that followed; those of the target's beams: objective.target_beams",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root; weight decay 0.035, on embedding "
            "tables, too",
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(256, 256, 256)),
        layout=PlainConfig(use_users=True),
        backbone=T5Config(),
        objective=DraftAlignmentConfig(),
        decoder=SpeculativeConfig(
            num_beams=20, draft=T5Config(width=64, num_heads=2, head_width=32, num_layers=1, hidden=256)
        ),
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
            evaluate_beams=20,
        ),
    )

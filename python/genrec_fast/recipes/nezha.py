"""NEZHA: one reading of the history and of placeholders, and a small recurrent head that writes the codes."""

from __future__ import annotations

from genrec_fast.backbones import NezhaConfig
from genrec_fast.decoders import BeamConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import RQKMeansConfig


def nezha() -> Recipe:
    """The published head, on a small transformer of its own."""
    return Recipe(
        name="nezha",
        source="NEZHA, arXiv:2511.18793; settings: Applied-Machine-Learning-Lab/WWW2026_NEZHA, commit c32df8f",
        deviations=(
            "a transformer of 4 layers over codes, trained from nothing, in place of a tuned Qwen3-0.6B or "
            "Llama-3.2-1B over a prompt of words; positions are learned",
            "children that the catalog has not are masked before the best are chosen, where the published search takes "
            "each beam's best first and may lose valid ones; 50 beams in place of 512",
            "semantic IDs from residual k-means, 3 levels of 512 and a digit against collisions",
            "AdamW at 1e-3 with a cosine and batches of 1,024 items in place of 1e-5 and 512 prompts",
        ),
        tokenizer=RQKMeansConfig(codebook_sizes=(512, 512, 512)),
        layout=PlainConfig(),
        backbone=NezhaConfig(),
        objective=NextCodeConfig(),
        decoder=BeamConfig(num_beams=50),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=20,
            max_minutes=60.0,
            learning_rate=1e-3,
            weight_decay=1e-5,
            decay_embeddings=False,
            evaluate_every=1,
            evaluate_users=2000,
        ),
    )

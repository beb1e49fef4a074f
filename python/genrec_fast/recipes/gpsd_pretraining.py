"""GPSD, the first stage: a network that predicts the next item, whose weights the ranking starts from."""

from __future__ import annotations

from genrec_fast.backbones import HSTUConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import SampledSoftmaxConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig

# Of both stages.
BACKBONE = HSTUConfig(
    width=64,
    num_heads=2,
    num_layers=2,
    qk_dim=32,
    v_dim=32,
    attention="softmax",
    alpha=None,
    bias="none",
    num_actions=2,
    max_items=50,
    max_tokens=256,
)
NETWORK = (
    "known from its abstract and an outline; sizes, negatives and schedules are ours",
    "layers of HSTU with softmax attention in place of a plain transformer's; items are their ids and no side features",
)


def gpsd_pretraining() -> Recipe:
    """Sampled softmax over the next item; ``gpsd`` is trained with ``start=`` this one's model."""
    return Recipe(
        name="gpsd_pretraining",
        source="GPSD, arXiv:2506.03699, generative pre-training",
        deviations=(
            *NETWORK,
            "width 64 with 2 heads and 2 layers, histories of 50 items",
            "weight decay 0.05, on embedding tables, too: ours",
        ),
        tokenizer=None,
        layout=PlainConfig(),
        backbone=BACKBONE,
        objective=SampledSoftmaxConfig(num_negatives=256),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=50, targets="every", items_per_batch=2048),
        train=TrainConfig(
            epochs=20, learning_rate=1e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05, evaluate_every=2
        ),
    )

"""SASRec as it was published: one sampled negative per position."""

from __future__ import annotations

from genrec_fast.backbones import CausalConfig
from genrec_fast.decoders import RetrieveConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import SampledBCEConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig


def sasrec_bce() -> Recipe:
    """The paper's network and objective; ``sasrec`` is the same idea with a softmax over the whole catalog."""
    return Recipe(
        name="sasrec_bce",
        source="SASRec, arXiv:1808.09781",
        deviations=(
            "histories of 20 items in place of 50, batches of 1,024 items in place of 128 rows",
            "keys and values are made of the normed input, as queries are, where the published code makes them of the "
            "input itself; a projection follows the attention, where it has none",
            "both residuals of a block add what came in, where the published code adds its normed form; the norms' "
            "epsilon is 1e-5 in place of 1e-8",
            "dropout of what each half of a block adds, where the published code drops the attention's weights and "
            "both layers of the feed-forward",
            "positions are counted from the oldest item that is read, where the published code counts them from the "
            "end of a window of fixed length",
            "a learned start vector in front of every row",
            "a negative that the row knows counts nothing, where the published code draws another, which is none of "
            "the user's training items",
            "users come in turn with all their transitions, in windows of 20, in place of users drawn with replacement "
            "and their last 50",
            "Adam with 300 steps of warm-up",
        ),
        measured="ml-100k, 10 passes, far from trained: Recall@10 .0732, NDCG@10 .0352 (docs/benchmarks.md)",
        tokenizer=None,
        layout=PlainConfig(),
        backbone=CausalConfig(width=50, num_heads=1, num_layers=2, hidden=50, dropout=0.5, max_items=20),
        objective=SampledBCEConfig(num_negatives=1, share="row", mask="history"),
        decoder=RetrieveConfig(),
        batching=BatchingConfig(max_items=20, targets="every", items_per_batch=1024),
        train=TrainConfig(
            epochs=100, learning_rate=1e-3, schedule="constant", warmup_steps=300, weight_decay=0.0, evaluate_every=10
        ),
    )

"""LLaDA-Rec: masked diffusion over a row of codes, each semantic ID written from its most confident code on."""

from __future__ import annotations

from genrec_fast.backbones import FlatDiffusionConfig
from genrec_fast.decoders import UnmaskConfig
from genrec_fast.layouts import PlainConfig
from genrec_fast.objectives import UniformMaskingConfig
from genrec_fast.recipe.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.tokenizers import OPQConfig


def llada_rec() -> Recipe:
    """4 codes of 256 an item; the settings of the public code where it has one for all data sets."""
    return Recipe(
        name="llada_rec",
        source="LLaDA-Rec, arXiv:2511.06254",
        deviations=(
            "semantic IDs from optimized product quantization in place of a VQ-VAE with a codebook for each of 4 parts "
            "of its latent, trained for 10,000 epochs; items are known by the dataset's vectors in place of "
            "Sentence-T5's, 128 principal components of them",
            "a masked code's embedding is its level's own: in the public code one stands for all, which leaves nothing "
            'to tell the masked codes of an item from each other (masks="one" of the backbone)',
            "the softmax runs over the codes of all levels, as there, but without tokens for padding, masks and ends",
            "a code is written only where some item has it beside those that are written, and of two orders that lead "
            "to the same codes one is kept: there any code of the level may be written, and answers may be no item",
            "which level is the most confident follows from the codes that may still be written, in place of all",
            "width 128 and 2 layers in place of 256 and 4, with an MLP of 512 in place of 1,024; attention weights are "
            "not dropped, weights are drawn alike in all layers",
            "the term over rows is divided by the longest row of the batch, there by the longest that can be",
            "weight decay 0.05, on embedding tables, too; one weight of 4 for the term over rows and no temperature, "
            "where these were chosen for each data set; a learning rate of 0.001 in place of 0.003, batches of 1,024 "
            "items in place of 1,024 histories, 30 passes in place of 150",
            "the validation searches with 10 beams in place of 1",
        ),
        tokenizer=OPQConfig(codebook_sizes=(256,) * 4, dedup="none"),
        layout=PlainConfig(),
        backbone=FlatDiffusionConfig(width=128, num_heads=4, num_layers=2, hidden=512, dropout=0.1, max_items=20),
        objective=UniformMaskingConfig(history_weight=4.0),
        decoder=UnmaskConfig(num_beams=50, codes_per_step=1, order="confident"),
        batching=BatchingConfig(max_items=20, targets="last", items_per_batch=1024),
        train=TrainConfig(
            epochs=30,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=500,
            weight_decay=0.05,
            evaluate_every=2,
            evaluate_users=2000,
            evaluate_beams=10,
        ),
    )

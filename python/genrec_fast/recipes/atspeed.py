"""AtSpeed: a draft aligned with the network that it runs ahead of, whose beam search it makes shorter."""

from __future__ import annotations

import dataclasses

from genrec_fast.backbones import T5Config
from genrec_fast.decoders import SpeculativeConfig
from genrec_fast.objectives import DraftAlignmentConfig
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipes.tiger import HEAD, NETWORK, published, tiger


def atspeed() -> Recipe:
    """Trained with ``start=``, a model of ``tiger``: only the draft learns."""
    made = tiger()
    return dataclasses.replace(
        made,
        name="atspeed",
        source="AtSpeed, arXiv:2410.05165, strict; settings: Linxyhaha/AtSpeed, commit 93bc886",
        deviations=(
            "the target is the T5 of `tiger`, where the paper's is LC-Rec's LLaMA-7B, and the draft a T5 of one layer "
            "and a tenth of its weights in place of a LLaMA of 68M",
            "the first level is the target's own, from its reading of the history, and not drafted; rows that were "
            "read are not read again; users of a batch accept different depths, where the paper's code has one user",
            "the search is strict; the paper's relaxed sampling is SpeculativeSamplingConfig, by its code: draws "
            "without replacement, no temperature, and where max(p - q, 0) has too few prefixes the others follow by p",
            "the loss compares distributions as they are, without a second softmax over the likeliest codes",
            "prefixes are those of the item that followed; those of the target's beams: objective.target_beams",
            "AdamW at 1e-3 with 500 steps of warm-up, then inverse square root; weight decay 0.035, on embedding "
            "tables, too",
            "a level's distribution is that over the codes that lead to an item, as the target was trained",
            *NETWORK,
            HEAD,
        ),
        measured="not yet measured",
        objective=DraftAlignmentConfig(valid_only=True),
        decoder=SpeculativeConfig(
            num_beams=20,
            normalize="valid",
            draft=T5Config(width=64, num_heads=2, head_width=32, num_layers=1, hidden=256),
        ),
        batching=dataclasses.replace(made.batching, targets="last"),
        train=dataclasses.replace(published().train, evaluate_beams=20, patience=6),
    )

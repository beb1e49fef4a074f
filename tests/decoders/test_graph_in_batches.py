"""Questions of other numbers of beams, asked together of a decoder that walks a graph."""

from __future__ import annotations

import dataclasses

import torch

from genrec_fast import recipes
from genrec_fast.backbones import ParallelHeadsConfig
from genrec_fast.decoders import GraphConfig
from genrec_fast.recipe.recommender import Recommender
from shared.catalogs import coded


def test_questions_of_other_widths_share_no_pass():
    codes = torch.randint(8, (300, 3), generator=torch.Generator().manual_seed(1))
    recipe = dataclasses.replace(
        recipes.rpg(),
        backbone=ParallelHeadsConfig(width=16, num_heads=2, num_layers=1, hidden=16, max_items=6),
        decoder=GraphConfig(num_beams=9, num_edges=4, num_steps=1),
    )
    torch.manual_seed(0)
    model = Recommender(recipe, coded(codes, (8, 8, 8)))
    with model.batcher() as batcher:
        futures = [batcher.submit([[1, 2]], k=3, num_beams=width) for width in (200, 3, 9)]
        for width, future in zip((200, 3, 9), futures, strict=True):
            assert torch.equal(future.result(30).items, model.recommend([[1, 2]], 3, num_beams=width).items)

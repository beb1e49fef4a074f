"""All of a model that learns: weights, and semantic IDs, which an objective may change."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.weights import module_tensors, restore_module
from genrec_fast.recipe.recommender import Recommender

_CODES = "catalog.item_codes"


def learned_tensors(model: Recommender) -> dict[str, Tensor]:
    """By name; not copied."""
    codes = model.catalog.item_codes
    assert codes is not None
    return {**module_tensors(model), _CODES: codes}


def restore_learned(model: Recommender, tensors: dict[str, Tensor], where: str) -> None:
    """Puts them back; ``where`` names the file in errors. Files of before semantic IDs were kept have none."""
    tensors = dict(tensors)
    codes, known = tensors.pop(_CODES, None), model.catalog.item_codes
    assert known is not None
    if codes is not None and not torch.equal(codes.cpu().to(known.dtype), known.cpu()):
        model.recode(model.catalog.with_codes(codes.clone(), model.codebook_sizes))
    restore_module(model, tensors, where)

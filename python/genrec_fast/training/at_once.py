"""Training without steps, for objectives that learn from the whole training split in one call."""

from __future__ import annotations

from pathlib import Path

import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data import Dataset, Splits, leave_one_out
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.training.setup import begin_with, coded_catalog

__all__ = ["train_at_once"]


def train_at_once(
    recipe: Recipe,
    data: Dataset,
    *,
    seed: int,
    out: Path | None,
    splits: Splits | None,
    device: str | None,
    start: Recommender | None,
) -> Recommender:
    """Builds a recipe's model, lets its objective learn, and saves it; arguments as those of ``train``.

    With ``start`` the training split is added to what that model has learned. There is no checkpoint: what is killed
    begins again.

    Raises:
        InvalidValueError: nothing to learn from, or ``out`` holds a training of steps.
    """
    histories = (leave_one_out(data.interactions) if splits is None else splits).train.items
    if histories.values.numel() == 0:
        raise InvalidValueError("train: data must have events to learn from, got none")
    if out is not None and (out / "checkpoint.safetensors").exists():
        raise InvalidValueError(
            f"train: out must be a new folder or one of the same training, got {out} with another recipe's "
            "checkpoint; choose another folder"
        )
    known = None if start is None else start.catalog
    catalog = coded_catalog(recipe, data, seed, None, reuse=False, histories=histories, codes=known)
    torch.manual_seed(seed)
    model = Recommender(recipe, catalog)
    begin_with(model, start)
    model.objective.learn(model, histories)
    model.eval()
    if out is not None:
        model.save(out)
    return model.to("cpu" if device is None else device)  # type: ignore[no-any-return]

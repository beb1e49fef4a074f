"""Training without steps, for objectives that learn from the whole training split in one call."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data import Dataset, Splits, leave_one_out
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.recipe.saved import write_model
from genrec_fast.training.folder import RunFolder
from genrec_fast.training.processes import Processes
from genrec_fast.training.setup import begin_with, coded_catalog


def train_at_once(
    recipe: Recipe,
    data: Dataset,
    *,
    seed: int,
    out: Path | None,
    resume: bool,
    splits: Splits | None,
    device: str | None,
    start: Recommender | None,
) -> Recommender:
    """Builds a recipe's model, lets its objective learn, and saves it; arguments as those of ``train``.

    With ``start`` the training split is added to what that model has learned. There is no checkpoint: what is killed
    begins again. Of several processes each counts everything, and the first one writes.

    Raises:
        InvalidValueError: nothing to learn from, or ``out`` holds a training of steps.
    """
    histories = (leave_one_out(data.interactions) if splits is None else splits).train.items
    if histories.values.numel() == 0:
        raise InvalidValueError("train: data must have events to learn from, got none")
    processes = Processes(device)
    with contextlib.ExitStack() as held:
        folder = None
        if out is not None and processes.rank == 0:
            folder = held.enter_context(RunFolder(out, writes=True))
            if resume and folder.checkpoint.exists():
                raise InvalidValueError(
                    f"train: out must be a new folder or one of the same training, got {out} with another recipe's "
                    "checkpoint; choose another folder, or start over with resume=False (--no-resume)"
                )
        known = None if start is None else start.catalog
        catalog = coded_catalog(recipe, data, seed, None, reuse=False, histories=histories, codes=known)
        torch.manual_seed(seed)
        model = Recommender(recipe, catalog)
        begin_with(model, start)
        model.objective.learn(model, histories)
        model.eval()
        if folder is not None:
            folder.begin(over=not resume)
            write_model(model, folder.path, run=folder.run)
    return model.to(processes.device)  # type: ignore[no-any-return]

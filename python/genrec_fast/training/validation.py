"""How good a model is on the users held back, every process asking its share of them."""

from __future__ import annotations

import torch

from genrec_fast.data import Evaluation
from genrec_fast.evaluation import evaluate, figure_names
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.training.processes import Processes


def validation_figures(
    model: Recommender, users: Evaluation, processes: Processes, num_beams: int | None
) -> dict[str, float]:
    """Recall and NDCG at 5 and 10, and of actions, as means over all users; the same in every process."""
    own = users.select(torch.arange(processes.rank, len(users), processes.world))
    names = figure_names(model)
    sums = torch.zeros(len(names), dtype=torch.float64)
    if len(own):
        figures = evaluate(model, own, ks=(5, 10), num_beams=num_beams).figures()
        sums += len(own) * torch.tensor([figures[name] for name in names], dtype=torch.float64)
    sums = processes.sum(sums).cpu()
    return dict(zip(names, (sums / len(users)).tolist(), strict=True))

"""How good a recommender is: full ranking over the catalog, for every question."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genrec_fast import metrics
from genrec_fast.data import Evaluation, evaluation_batches
from genrec_fast.errors import InvalidValueError
from genrec_fast.model import Recommender

__all__ = ["Evaluated", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Figures of one evaluation; ``print`` shows them as a table.

    Args:
        recall: k -> share of users whose target is among the first k.
        ndcg: k -> mean of 1 / log2(place + 1), place from 1, 0 beyond k.
        invalid_rate: share of the slots that hold no item.
        exact: share of users whose list is proven to be the best of the whole catalog.
        users_per_second: with this machine and these settings.
        num_users: how many were asked.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    invalid_rate: float
    exact: float
    users_per_second: float
    num_users: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows = [(f"recall@{k}", f"{value:.4f}") for k, value in self.recall.items()]
        rows += [(f"ndcg@{k}", f"{value:.4f}") for k, value in self.ndcg.items()]
        rows += [("invalid", f"{self.invalid_rate:.4f}"), ("exact", f"{self.exact:.4f}")]
        rows += [("users", f"{self.num_users:,}"), ("users/s", f"{self.users_per_second:,.1f}")]
        wide, high = (max(len(row[i]) for row in rows) for i in (0, 1))
        return "\n".join(f"{name:<{wide}}  {value:>{high}}" for name, value in rows)


def evaluate(
    model: Recommender,
    evaluation: Evaluation,
    *,
    ks: Sequence[int] = (5, 10),
    num_beams: int | None = None,
    users_per_batch: int = 256,
) -> Evaluated:
    """Asks ``model`` every question of ``evaluation``; items already seen are not removed (the field's convention).

    Args:
        model: trained.
        evaluation: histories and the item that followed.
        ks: where the lists are cut; the longest is searched once.
        num_beams: ``None``: the decoder's own.
        users_per_batch: a matter of memory and speed.

    Raises:
        InvalidValueError: no question, or a k below 1.
    """
    if len(evaluation) == 0:
        raise InvalidValueError("evaluate: evaluation must have at least one user, got none")
    if not ks or min(ks) < 1:
        raise InvalidValueError(f"evaluate: ks must be numbers from 1, got {tuple(ks)}")
    batches = evaluation_batches(
        evaluation,
        max_items=model.recipe.batching.max_items,
        users_per_batch=users_per_batch,
        bucketed=True,
    )
    items, targets, exact = [], [], []
    start = time.perf_counter()
    with model.answering():
        for batch in batches:
            assert batch.targets is not None
            question = dataclasses.replace(batch, targets=None)
            ranked = model.search(question, max(ks), num_beams=num_beams)
            items.append(ranked.items.cpu())
            exact.append(ranked.exact.cpu())
            targets.append(batch.targets[batch.target_positions])
    seconds = time.perf_counter() - start
    found, wanted = torch.cat(items), torch.cat(targets)
    return Evaluated(
        recall={k: metrics.recall(found, wanted, k) for k in ks},
        ndcg={k: metrics.ndcg(found, wanted, k) for k in ks},
        invalid_rate=metrics.invalid_rate(found),
        exact=float(torch.cat(exact).double().mean()),
        users_per_second=len(evaluation) / seconds,
        num_users=len(evaluation),
    )

"""How good a recommender is: full ranking over the catalog, for every question."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genrec_fast import metrics
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import ActionScoring
from genrec_fast.base.query import Query
from genrec_fast.data import Evaluation, evaluation_batches
from genrec_fast.decoders.base import run
from genrec_fast.decoders.rank import with_candidates
from genrec_fast.recipe.recommender import Recommender

__all__ = ["Evaluated", "evaluate", "figure_names"]


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
        auc: per action, the area under the ROC curve of the predicted next actions; for models that predict them. 0.5
            where all answers are alike.
        normalized_entropy: per action, likewise; 1 where all answers are alike.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    invalid_rate: float
    exact: float
    users_per_second: float
    num_users: int
    auc: dict[str, float] = dataclasses.field(default_factory=dict)
    normalized_entropy: dict[str, float] = dataclasses.field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """What a training chooses its best weights by, and more: recall and NDCG, and means over the actions."""
        found: dict[str, float] = {}
        for k in self.recall:
            found |= {f"recall@{k}": self.recall[k], f"ndcg@{k}": self.ndcg[k]}
        for name, values in (("auc", self.auc), ("normalized_entropy", self.normalized_entropy)):
            if values:
                found[name] = sum(values.values()) / len(values)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        rows = [(f"recall@{k}", f"{value:.4f}") for k, value in self.recall.items()]
        rows += [(f"ndcg@{k}", f"{value:.4f}") for k, value in self.ndcg.items()]
        rows += [(f"auc {name}", f"{value:.4f}") for name, value in self.auc.items()]
        rows += [(f"ne {name}", f"{value:.4f}") for name, value in self.normalized_entropy.items()]
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
        max_items=model.max_items,
        users_per_batch=users_per_batch,
        bucketed=True,
    )
    items, targets, exact = [], [], []
    asks = predicts_actions(model)
    logits, labels = [], []
    query = Query(k=max(ks), num_beams=num_beams)
    start = time.perf_counter()
    with model.answering():
        for batch in batches:
            assert batch.targets is not None
            question = dataclasses.replace(batch, targets=None)
            targets.append(batch.targets[batch.target_positions])
            if asks:
                if batch.target_actions is None:
                    raise InvalidValueError("evaluate: evaluation must have actions for a model of actions, got None")
                labels.append(batch.target_actions[batch.target_positions])
                laid = model.batch(question)
                ranked = run(model.decoder.begin(model, laid, query.to(model.device)))
                logits.append(_action_logits(model, laid, targets[-1].to(model.device)).cpu())
            else:
                ranked = model.search(question, query)
            items.append(ranked.items.cpu())
            exact.append(ranked.exact.cpu())
    seconds = time.perf_counter() - start
    auc, entropy = _of_actions(model, torch.cat(logits), torch.cat(labels)) if asks else ({}, {})
    found, wanted = torch.cat(items), torch.cat(targets)
    return Evaluated(
        recall={k: metrics.recall(found, wanted, k) for k in ks},
        ndcg={k: metrics.ndcg(found, wanted, k) for k in ks},
        invalid_rate=metrics.invalid_rate(found),
        exact=float(torch.cat(exact).double().mean()),
        users_per_second=len(evaluation) / seconds,
        num_users=len(evaluation),
        auc=auc,
        normalized_entropy=entropy,
    )


def predicts_actions(model: Recommender) -> bool:
    """Whether the model was trained to predict actions."""
    return model.objective is not None and model.objective.needs is ActionScoring


def figure_names(model: Recommender) -> tuple[str, ...]:
    """Names of ``Evaluated.figures()`` for ks 5 and 10; the last one is what a training goes by."""
    names = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    return (*names, "auc", "normalized_entropy") if predicts_actions(model) else names


def _action_logits(model: Recommender, laid: Batch, targets: torch.Tensor) -> torch.Tensor:
    """float32 ``[B, A]``: what each user will do with the target, a candidate behind the history that was searched."""
    table = getattr(model.layout, "features", None)
    features = None if laid.features is None or table is None else table[targets]
    one_each = Jagged(targets, torch.arange(len(targets) + 1, device=targets.device))
    logits: torch.Tensor = model.backbone.action_logits(with_candidates(laid, one_each, features))  # type: ignore[operator]
    return logits.float()


def _of_actions(
    model: Recommender, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    names = model.actions
    if len(names) != labels.shape[1]:
        names = tuple(f"action {number}" for number in range(labels.shape[1]))
    auc, entropy = {}, {}
    for number, name in enumerate(names):
        alike = bool((labels[:, number] == labels[0, number]).all())
        auc[name] = 0.5 if alike else metrics.auc(logits[:, number], labels[:, number])
        entropy[name] = 1.0 if alike else metrics.normalized_entropy(logits[:, number], labels[:, number])
    return auc, entropy

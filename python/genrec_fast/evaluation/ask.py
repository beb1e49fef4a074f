"""Asks a recommender, and baselines beside it, every question of an evaluation, in one pass over the users."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_fast import metrics
from genrec_fast.base.batch import Batch, Question, Ranked
from genrec_fast.base.checks import INT64, choice, is_truth, numbers, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.items import Items, mask_of
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import ActionScoring, ItemScores
from genrec_fast.base.query import Query
from genrec_fast.data import Evaluation, Interactions, evaluation_batches
from genrec_fast.decoders.base import run
from genrec_fast.decoders.rank import with_candidates
from genrec_fast.evaluation.baselines import baselines
from genrec_fast.evaluation.figures import Evaluated, Line
from genrec_fast.evaluation.places import first_items, places_among, places_in
from genrec_fast.evaluation.tally import Tally
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.recipe.system import System

_VIEWS = {"kept": ("kept",), "removed": ("removed",), "both": ("kept", "removed")}
_SCORES = 1 << 24  # of a baseline at once, users x items


def evaluate(
    model: Recommender,
    evaluation: Evaluation,
    *,
    ks: int | Iterable[int] | Tensor = (5, 10),
    num_beams: int | None = None,
    users_per_batch: int = 256,
    train: Interactions | None = None,
    seen: str = "kept",
    allowed: Tensor | Iterable[Any] | None = None,
) -> Evaluated:
    """Asks ``model`` every question of ``evaluation`` over the whole catalog.

    Args:
        model: trained.
        evaluation: histories and the item that followed.
        ks: where the lists are cut, a whole number or several (a list, an array, a tensor); the longest is searched
            once. One beyond the catalog's items cuts nothing off.
        num_beams: ``None``: the decoder's own.
        users_per_batch: a matter of memory and speed.
        train: the training split. With it, ``lines`` of the result hold baselines beside the model: popularity, the
            transition graph, and with item features the neighbours of the last item, and graph and features together.
        seen: whether the items of a user's whole history stay among the answers: "kept" (the field's convention),
            "removed", or "both", side by side in ``lines``; other figures than ``lines`` are then those of "kept".
        allowed: the only items that may be answered with, by the model and the baselines alike: item ids and names, or
            a mask, bool ``[N]``. Targets that are not among them count as not found.

    Raises:
        InvalidTypeError: an argument of another kind: ks, num_beams or users_per_batch that are no whole numbers.
        InvalidValueError: no question, one of those numbers below 1, another word for ``seen``, or ``evaluation`` or
            ``train`` with other items.

    Notes:
        ``lines`` are made where ``train`` is given or seen items are removed. In them one item more than the longest k
        is searched, and more for users whose list ends within a tie: their figures are expectations over the order of
        equal scores. What a search left out or ``num_beams`` has no room for counts as not tied.

    Example:
        ``print(gf.evaluate(model, splits.test, ks=(1, 10, 50), train=splits.train, seen="both"))``
    """
    for name, given, kind in (("model", model, System), ("evaluation", evaluation, Evaluation)):
        if not isinstance(given, kind):
            what = "a Recommender (gf.load reads one)" if kind is System else "an Evaluation (of gf.data's splits)"
            raise InvalidTypeError(f"evaluate: {name} must be {what}, got {shown(given)}")
    if len(evaluation) == 0:
        raise InvalidValueError("evaluate: evaluation must have at least one user, got none")
    _check_items("histories", evaluation.histories.values, model.num_inputs)
    _check_items("targets", evaluation.targets, model.num_items)
    cuts = _cuts(ks)
    if num_beams is not None:
        num_beams = whole_number("evaluate", "num_beams", num_beams)
    users_per_batch = whole_number("evaluate", "users_per_batch", users_per_batch)
    views = _VIEWS[choice("evaluate", "seen", seen, tuple(_VIEWS))]
    if train is not None and not isinstance(train, Interactions):
        raise InvalidTypeError(f"evaluate: train must be Interactions (the split's train), got {shown(train)}")
    if train is not None and train.num_items != model.num_items:
        raise InvalidValueError(f"evaluate: train must have the model's {model.num_items} items, got {train.num_items}")
    # In the order of their lengths, to save padding.
    evaluation = evaluation.select(evaluation.histories.lengths.clamp(max=model.max_items).argsort(stable=True))
    asked = _Asked(model, cuts, num_beams, views, train, _mask(model, allowed))
    start = time.perf_counter()
    with model.answering():
        batches = evaluation_batches(evaluation, max_items=model.max_items, users_per_batch=users_per_batch)
        for number, batch in enumerate(batches):
            begin = number * users_per_batch
            asked.add(batch, evaluation.histories.slice(begin, min(begin + users_per_batch, len(evaluation))))
    return asked.found(time.perf_counter() - start)


class _Asked:
    """One evaluation as it goes: the model's lists, its actions, and a tally for each recommender and view."""

    def __init__(
        self,
        model: Recommender,
        ks: tuple[int, ...],
        num_beams: int | None,
        views: tuple[str, ...],
        train: Interactions | None,
        allowed: Tensor | None,
    ) -> None:
        self.model, self.ks, self.views, self.num_beams = model, ks, views, num_beams
        self.allowed = allowed
        num_items = model.num_items
        self.k = min(max(ks), num_items)  # all items are found by then, and a longer list finds no more
        counts = model.catalog.counts if train is None else torch.bincount(train.items.values, minlength=num_items)
        self.counts = None if counts is None else counts.cpu()
        self.detailed = train is not None or views != ("kept",)
        room = num_beams is None or num_beams > self.k
        self.width = self.k + 1 if self.detailed and room and self.k < num_items else self.k
        self.baselines: Mapping[str, ItemScores] = {}
        if train is not None:
            self.baselines = baselines(train.items, num_items, model.catalog.features)
        self.tallies = {
            (name, view): Tally(name, view, ks, self.counts, num_items)  # type: ignore[arg-type]
            for name in (model.name, *self.baselines)
            for view in views
        }
        self.seconds = 0.0  # of the baselines
        self.items: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.exact: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, batch: Batch, histories: Jagged) -> None:
        """The questions of some users, and their whole histories."""
        assert batch.targets is not None
        targets = batch.targets[batch.target_positions]
        question = dataclasses.replace(batch, targets=None)
        self.targets.append(targets)
        for view in self.views:
            ask = self._asking(question, None if view == "kept" else histories)
            ranked = ask(None, self.width)
            if view == self.views[0]:
                first = ranked.first(self.k)
                self.items.append(first.items)
                self.exact.append(first.exact)
            tally = self.tallies[self.model.name, view]
            places = None
            if self.detailed:
                places = places_in(ranked, targets, self.k, ask, self.model.num_items)
            tally.add(ranked.items, places)
        if predicts_actions(self.model):
            if batch.target_actions is None:
                raise InvalidValueError("evaluate: evaluation must have actions for a model of actions, got None")
            self.labels.append(batch.target_actions[batch.target_positions])
            self.logits.append(_action_logits(self.model, self.laid, targets.to(self.model.device)).cpu())
        start = time.perf_counter()
        for name, scorer in self.baselines.items():
            size = max(1, _SCORES // scorer.num_items)
            for begin in range(0, len(targets), size):
                part = slice(begin, begin + size)
                self._add_baseline(name, scorer, histories.slice(begin, min(begin + size, len(targets))), targets[part])
        self.seconds += time.perf_counter() - start

    def _asking(self, question: Question, exclude: Jagged | None) -> Callable[[Tensor | None, int], Ranked]:
        """(users, ``None``: all; k) -> their lists, on the CPU."""
        model = self.model

        def ask(users: Tensor | None, k: int) -> Ranked:
            beams = self.num_beams if self.num_beams is None else max(self.num_beams, k)
            query = Query(k=k, num_beams=beams, allowed=self.allowed, exclude=exclude)
            if users is not None:
                return model.search(question.select(users), query.select(users)).to("cpu")
            if not predicts_actions(model):
                return model.search(question, query).to("cpu")
            self.laid = model.batch(question)  # read again for the actions
            return run(model.decoder.begin(model, self.laid, query.to(model.device))).to("cpu")

        return ask

    def _add_baseline(self, name: str, scorer: ItemScores, histories: Jagged, targets: Tensor) -> None:
        scores = scorer.score_items(Batch(histories))
        if self.allowed is not None:
            scores[:, ~self.allowed] = -torch.inf
        for view in self.views:  # kept comes first
            if view == "removed":
                scores[histories.row_index(), histories.values] = -torch.inf
            self.tallies[name, view].add(first_items(scores, self.k), places_among(scores, targets))

    def found(self, seconds: float) -> Evaluated:
        """The figures of everything that was asked."""
        items, targets = torch.cat(self.items), torch.cat(self.targets)
        asks = bool(self.logits)
        auc, entropy = _of_actions(self.model, torch.cat(self.logits), torch.cat(self.labels)) if asks else ({}, {})
        lines: list[Line] = []
        if self.detailed:
            known = None if self.counts is None else self.counts[targets] > 0
            lines = [line for tally in self.tallies.values() for line in tally.lines(known)]
        own = self.tallies[self.model.name, self.views[0]]
        return Evaluated(
            recall={k: metrics.recall(items, targets, min(k, self.k)) for k in self.ks},
            ndcg={k: metrics.ndcg(items, targets, min(k, self.k)) for k in self.ks},
            invalid_rate=metrics.invalid_rate(items),
            exact=float(torch.cat(self.exact).double().mean()),
            users_per_second=targets.numel() / max(seconds - self.seconds, 1e-9),
            num_users=targets.numel(),
            auc=auc,
            normalized_entropy=entropy,
            mrr={k: metrics.mrr(items, targets, min(k, self.k)) for k in self.ks},
            coverage=own.coverage(),
            novelty=own.novelty(),
            lines=tuple(lines),
        )


def _cuts(ks: Any) -> tuple[int, ...]:
    single = isinstance(ks, (int, np.integer)) or (isinstance(ks, (Tensor, np.ndarray)) and not ks.ndim)
    if single or is_truth(ks):
        return (whole_number("evaluate", "ks", ks),)
    found = numbers("evaluate", "ks", list(ks) if isinstance(ks, Set) else ks, *INT64)
    if not found or min(found) < 1:
        raise InvalidValueError(f"evaluate: ks must be numbers from 1, got {tuple(found)}")
    return tuple(whole_number("evaluate", "ks", k) for k in found)


def _check_items(name: str, items: Tensor, most: int) -> None:
    """Raises for a question of items (or tokens) that the model does not have."""
    if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < most:
        raise InvalidValueError(
            f"evaluate: evaluation must hold items of the model's {most}, but its {name} hold "
            f"{int(items.min())} to {int(items.max())}"
        )


def _mask(model: Recommender, allowed: Tensor | Iterable[Any] | None) -> Tensor | None:
    """Bool ``[N]``, on the CPU."""
    if allowed is None:
        return None
    mask = mask_of(Items("evaluate", model).chosen("allowed", allowed, 1), model.num_items).cpu()
    if mask.dim() != 1:
        raise InvalidValueError(
            f"evaluate: allowed must be items for everybody or bool [{model.num_items}], got {list(mask.shape)}"
        )
    return mask


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

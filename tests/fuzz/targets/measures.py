"""Metrics and objectives: numbers of tensors, against plain Python and plain torch."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast import metrics
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives import (
    FullSoftmaxConfig,
    InBatchConfig,
    NextCodeConfig,
    SampledBCEConfig,
    SampledSoftmaxConfig,
)

from ..case import Case, Rng, target
from ..compare import differs


def close(tolerance: float) -> Any:
    return lambda found, right, args: differs(found, right, tolerance)


def _ranked(rng: Rng) -> tuple[Tensor, Tensor]:
    users, width = rng.randint(1, 5), rng.randint(1, 6)
    items = torch.stack([torch.randperm(12, generator=rng.torch)[:width] for _ in range(users)])
    if rng.flip(0.3):
        items[:, rng.randrange(width) :] = -1
    kind = rng.choice((torch.int64, torch.int32, torch.int16))
    return items.to(kind), rng.whole(0, 12, users, dtype=kind)


def _places(items: Tensor, targets: Tensor) -> list[int]:
    if items.dtype.is_floating_point or items.dim() != 2 or targets.dim() != 1 or len(items) != len(targets):
        raise ValueError("shapes")
    if not len(targets) or min(targets.tolist()) < 0:
        raise ValueError("targets")
    rows = items.tolist()
    return [row.index(t) if t in row else len(row) for row, t in zip(rows, targets.tolist(), strict=True)]


@target("metrics.recall", gentle=True, share=0.4)
def recall(rng: Rng) -> Case:
    items, targets = _ranked(rng)

    def right(items: Tensor, targets: Tensor, k: int) -> float:
        places = _places(items, targets)
        if not 1 <= int(k) <= items.shape[1]:
            raise ValueError("k")
        return sum(place < int(k) for place in places) / len(places)

    return Case(
        metrics.recall, {"items": items, "targets": targets, "k": rng.randint(1, items.shape[1])}, right, close(1e-12)
    )


@target("metrics.ndcg", gentle=True, share=0.4)
def ndcg(rng: Rng) -> Case:
    items, targets = _ranked(rng)

    def right(items: Tensor, targets: Tensor, k: int) -> float:
        places = _places(items, targets)
        if not 1 <= int(k) <= items.shape[1]:
            raise ValueError("k")
        return sum(1 / math.log2(place + 2) for place in places if place < int(k)) / len(places)

    return Case(
        metrics.ndcg, {"items": items, "targets": targets, "k": rng.randint(1, items.shape[1])}, right, close(1e-12)
    )


@target("metrics.ranks", gentle=True, share=0.4)
def ranks(rng: Rng) -> Case:
    items, targets = _ranked(rng)
    return Case(
        metrics.ranks,
        {"items": items, "targets": targets},
        lambda items, targets: torch.tensor(_places(items, targets)),
    )


@target("metrics.invalid_rate", gentle=True, share=0.2)
def invalid_rate(rng: Rng) -> Case:
    def right(items: Tensor) -> float:
        if items.dim() != 2 or not items.numel():
            raise ValueError("shape")
        flat = [item for row in items.tolist() for item in row]
        return sum(item < 0 for item in flat) / len(flat)

    return Case(metrics.invalid_rate, {"items": _ranked(rng)[0]}, right, close(1e-12))


@target("metrics.collision_rate", gentle=True, share=0.2)
def collision_rate(rng: Rng) -> Case:
    codes = rng.whole(0, 3, rng.randint(1, 9), rng.randint(1, 3))

    def right(item_codes: Tensor) -> float:
        if item_codes.dim() != 2 or not item_codes.numel():
            raise ValueError("shape")
        rows = [tuple(row) for row in item_codes.tolist()]
        return (len(rows) - len(set(rows))) / len(rows)

    return Case(metrics.collision_rate, {"item_codes": codes}, right, close(1e-12))


@target("metrics.codebook_use", gentle=True, share=0.3)
def codebook_use(rng: Rng) -> Case:
    sizes = tuple(rng.randint(1, 6) for _ in range(rng.randint(1, 3)))
    codes = torch.stack([rng.whole(0, size, 7) for size in sizes], 1)

    def right(item_codes: Tensor, codebook_sizes: Any) -> list[float]:
        sizes = [int(size) for size in codebook_sizes]
        if item_codes.dim() != 2 or item_codes.shape[1] != len(sizes) or not item_codes.numel():
            raise ValueError("shape")
        out = []
        for level, size in enumerate(sizes):
            used = set(item_codes[:, level].tolist())
            if min(used) < 0 or max(used) >= size:
                raise ValueError("a code outside")
            out.append(len(used) / size)
        return out

    return Case(metrics.codebook_use, {"item_codes": codes, "codebook_sizes": sizes}, right, close(1e-12))


def _answers(rng: Rng) -> dict[str, Any]:
    count = rng.randint(2, 12)
    labels = rng.mask(count, probability=0.5)
    labels[0], labels[1] = True, False
    return {"logits": rng.normal(count) if rng.flip() else rng.whole(-2, 3, count).float(), "labels": labels}


@target("metrics.auc", gentle=True, share=0.3)
def auc(rng: Rng) -> Case:
    def right(logits: Tensor, labels: Tensor) -> float:
        yes, no = logits.double()[labels].tolist(), logits.double()[~labels].tolist()
        if not yes or not no or any(x != x for x in yes + no):
            raise ValueError("nothing to compare")
        return sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))

    return Case(metrics.auc, _answers(rng), right, close(1e-9))


@target("metrics.normalized_entropy", gentle=True, share=0.3)
def normalized_entropy(rng: Rng) -> Case:
    def right(logits: Tensor, labels: Tensor) -> float:
        share = float(labels.double().mean())
        if not 0 < share < 1 or bool(logits.isnan().any()):
            raise ValueError("nothing to compare")
        even = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        return float(F.binary_cross_entropy_with_logits(logits.double(), labels.double())) / even

    def judge(found: Any, expected: float, args: dict[str, Any]) -> str | None:
        return differs(found, expected, 1e-5 * max(1.0, abs(expected)) if math.isfinite(expected) else math.inf)

    return Case(metrics.normalized_entropy, _answers(rng), right, judge)


# ---- objectives


class Places:
    """Users (or events) and items in one space, as given."""

    def __init__(self, states: Tensor, table: Tensor) -> None:
        self.states, self.table = states, table

    def embed_targets(self, batch: Batch) -> Tensor:
        return self.states[batch.target_positions]

    def embed_users(self, batch: Batch) -> Tensor:
        return self.states

    def item_table(self) -> Tensor:
        return self.table


class Levels:
    """Logits of every level, as given."""

    def __init__(self, logits: list[Tensor]) -> None:
        self.logits = logits

    def level_logits(self, batch: Batch) -> list[Tensor]:
        return self.logits


def _histories(rng: Rng, items: int) -> tuple[Jagged, Tensor]:
    """Rows of items, and what follows each: -1 where nothing is to be predicted."""
    lengths = [rng.randint(1, 4) for _ in range(rng.randint(1, 4))]
    values = rng.whole(0, items, sum(lengths))
    targets = torch.where(rng.mask(sum(lengths), probability=0.7), rng.whole(0, items, sum(lengths)), -1)
    targets[0] = 0
    return Jagged(values, rng.offsets(lengths, torch.int64)), targets


@target("FullSoftmax", gentle=True, share=0.3)
def full_softmax(rng: Rng) -> Case:
    items, width = rng.randint(2, 9), rng.choice((1, 4, 8))
    rows, targets = _histories(rng, items)
    states, table = rng.normal(len(targets), width), rng.normal(items, width)
    args = {"targets": targets, "label_smoothing": rng.choice((0.0, 0.1))}

    def call(targets: Any, label_smoothing: Any) -> float:
        if not isinstance(targets, Tensor) or targets.shape != rows.values.shape:
            raise InvalidTypeError("not a batch")
        objective = FullSoftmaxConfig(label_smoothing=label_smoothing).build()
        return float(objective(SimpleNamespace(backbone=Places(states, table)), Batch(rows, targets=targets)).value)

    def right(targets: Tensor, label_smoothing: float) -> float:
        wanted = targets[targets >= 0]
        if not len(wanted) or int(wanted.max()) >= items:
            raise ValueError("targets")
        return float(
            F.cross_entropy(
                (states[targets >= 0] @ table.T).double(), wanted.long(), label_smoothing=float(label_smoothing)
            )
        )

    return Case(call, args, right, close(1e-4))


@target("NextCode", gentle=True, share=0.3)
def next_code(rng: Rng) -> Case:
    sizes = [rng.randint(2, 6) for _ in range(rng.randint(1, 3))]
    count = rng.randint(1, 5)
    logits = [rng.normal(count, size) for size in sizes]
    args = {
        "target_codes": torch.stack([rng.whole(0, size, count) for size in sizes], 1),
        "level_weights": rng.choice(((), tuple(rng.choice((0.5, 1.0, 2.0)) for _ in sizes))),
        "label_smoothing": rng.choice((0.0, 0.1)),
    }

    def call(target_codes: Any, level_weights: Any, label_smoothing: Any) -> float:
        if not isinstance(target_codes, Tensor) or target_codes.shape != (count, len(sizes)):
            raise InvalidTypeError("not a batch")
        settings = NextCodeConfig(level_weights=level_weights, label_smoothing=label_smoothing)
        batch = Batch(Jagged.from_rows([[0]]), target_codes=target_codes)
        return float(settings.build()(SimpleNamespace(backbone=Levels(logits)), batch).value)

    def right(target_codes: Tensor, level_weights: Any, label_smoothing: float) -> float:
        weights = [float(w) for w in level_weights] or [1.0] * len(sizes)
        if len(weights) != len(sizes) or target_codes.dtype.is_floating_point:
            raise ValueError("weights or codes")
        losses = [
            float(F.cross_entropy(x.double(), target_codes[:, i].long(), label_smoothing=float(label_smoothing)))
            for i, x in enumerate(logits)
        ]
        return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)

    return Case(call, args, right, close(1e-4))


def _sampled(kind: Any, choices: dict[str, tuple[Any, ...]]) -> Any:
    def make(rng: Rng) -> Case:
        items, width = rng.randint(3, 9), 4
        rows, targets = _histories(rng, items)
        states, table = rng.normal(len(targets), width), rng.normal(items, width)
        args = {"targets": targets} | {name: rng.choice(values) for name, values in choices.items()}

        def call(targets: Any, **settings: Any) -> bool:
            if not isinstance(targets, Tensor) or targets.shape != rows.values.shape:
                raise InvalidTypeError("not a batch")
            made = kind(**settings).build(Catalog(counts=torch.ones(items, dtype=torch.int64)))
            torch.manual_seed(0)
            loss = made(SimpleNamespace(backbone=Places(states, table)), Batch(rows, targets=targets))
            return bool(loss.value.isfinite()) and loss.count > 0

        return Case(call, args, None, refuses=True)

    return make


_NEGATIVES = {"num_negatives": (1, 4), "share": ("batch", "row"), "sampling": ("uniform",), "power": (1.0, 0.5)}
target("SampledBCE", gentle=True, share=0.2)(
    _sampled(SampledBCEConfig, _NEGATIVES | {"mask": ("target", "history"), "calibration": (0.0, 0.5)})
)
target("SampledSoftmax", gentle=True, share=0.2)(
    _sampled(
        SampledSoftmaxConfig,
        _NEGATIVES
        | {"correction": ("negatives", "all", "none"), "temperature": (1.0, 0.1), "mask": ("target", "history")},
    )
)
target("InBatch", gentle=True, share=0.2)(
    _sampled(InBatchConfig, {"temperature": (1.0, 0.1), "correct_log_q": (False,), "mask": ("target", "history")})
)

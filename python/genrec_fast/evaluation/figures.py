"""What an evaluation found, and how it is shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Seen = Literal["kept", "removed"]
WIDTH = 100  # columns of a terminal that a table may take
_CELL = 8
_TITLES = {
    "recall": "recall = hit rate",
    "ndcg": "ndcg",
    "mrr": "mrr",
    "coverage": "coverage",
    "novelty": "novelty, bits",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """Figures of one recommender, for some of the questions; places among equal scores are expectations.

    Args:
        name: who answered: the model's name, or a baseline's.
        seen: whether the items of a user's whole history were removed from the answers.
        targets: which questions: all, those whose target training has seen ("known"), or the others ("new").
        num_users: how many these are.
        recall: k -> expected share of users whose target is among the first k (the hit rate: there is one target each).
        ndcg: k -> mean of 1 / log2(place + 1), place from 1, 0 beyond k.
        mrr: k -> mean of 1 / place, 0 beyond k.
        coverage: k -> share of the catalog that stands in somebody's first k; empty but for all targets.
        novelty: k -> mean -log2 of the recommended items' shares of the training events, bits; empty where training is
            not known, and but for all targets.
    """

    name: str
    seen: Seen
    targets: Literal["all", "known", "new"]
    num_users: int
    recall: dict[int, float]
    ndcg: dict[int, float]
    mrr: dict[int, float]
    coverage: dict[int, float] = dataclasses.field(default_factory=dict)
    novelty: dict[int, float] = dataclasses.field(default_factory=dict)


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
        mrr: k -> mean of 1 / place, 0 beyond k.
        coverage: k -> share of the catalog that stands in somebody's first k.
        novelty: k -> mean -log2 of the recommended items' shares of the training events, bits; empty where the training
            events are not known.
        lines: the same for the model and baselines, with seen items kept and removed, new and known targets apart;
            empty unless ``evaluate`` was asked for it. Here, unlike above, equal scores count as in any order.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    invalid_rate: float
    exact: float
    users_per_second: float
    num_users: int
    auc: dict[str, float] = dataclasses.field(default_factory=dict)
    normalized_entropy: dict[str, float] = dataclasses.field(default_factory=dict)
    mrr: dict[int, float] = dataclasses.field(default_factory=dict)
    coverage: dict[int, float] = dataclasses.field(default_factory=dict)
    novelty: dict[int, float] = dataclasses.field(default_factory=dict)
    lines: tuple[Line, ...] = ()

    @property
    def hit_rate(self) -> dict[int, float]:
        """K -> share of users with a target among the first k: with one target a user, the recall."""
        return self.recall

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
        return dataclasses.asdict(self) | {"hit_rate": dict(self.hit_rate)}

    def __str__(self) -> str:
        rows: list[tuple[str, str]] = []
        if not self.lines:
            for name in ("recall", "ndcg", "mrr", "coverage", "novelty"):
                rows += [(f"{name}@{k}", _cell(name, value)) for k, value in getattr(self, name).items()]
        rows += [(f"auc {name}", f"{value:.4f}") for name, value in self.auc.items()]
        rows += [(f"ne {name}", f"{value:.4f}") for name, value in self.normalized_entropy.items()]
        rows += [("invalid", f"{self.invalid_rate:.4f}"), ("exact", f"{self.exact:.4f}")]
        rows += [("users", f"{self.num_users:,}"), ("users/s", f"{self.users_per_second:,.1f}")]
        wide, high = (max(len(row[i]) for row in rows) for i in (0, 1))
        facts = [f"{name:<{wide}}  {value:>{high}}" for name, value in rows]
        return "\n".join([*_table(self.lines), *facts])


def _cell(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if name == "novelty" else f"{value:.4f}"


def _table(lines: tuple[Line, ...]) -> list[str]:
    """A block for each figure: who answered down, seen items kept and removed and the ks across, within ``WIDTH``.

    Known and new targets stand apart for the model alone; the lines have them for the baselines, too.
    """
    lines = tuple(line for line in lines if line.targets == "all" or line.name == lines[0].name)
    if not lines:
        return []
    views = list(dict.fromkeys(line.seen for line in lines))
    ks = list(lines[0].recall)
    named: dict[tuple[str, str], dict[str, Line]] = {}  # (name, targets) -> by view
    for line in lines:
        named.setdefault((line.name, line.targets), {})[line.seen] = line
    labels = {key: _label(*key, next(iter(row.values())).num_users) for key, row in named.items()}
    wide = max(len(text) for text in (*labels.values(), *_TITLES.values()))
    at_once = max(1, ((WIDTH - wide) // len(views) - 2) // _CELL)
    out = []
    for begin in range(0, len(ks), at_once):
        some = ks[begin : begin + at_once]
        space = len(some) * _CELL
        out.append(" " * wide + "".join(f"  {f'seen items {view}':>{space}}" for view in views))
        for name, title in _TITLES.items():
            shown = {key: row for key, row in named.items() if any(getattr(line, name) for line in row.values())}
            if not shown:
                continue
            heads = "".join(f"{f'@{k}':>{_CELL}}" for k in some)
            out.append(f"{title:<{wide}}" + f"  {heads}" * len(views))
            for key, row in shown.items():
                values = [[getattr(row[view], name).get(k) if view in row else None for k in some] for view in views]
                cells = ("  " + "".join(f"{_cell(name, value):>{_CELL}}" for value in part) for part in values)
                out.append(f"{labels[key]:<{wide}}" + "".join(cells))
            out.append("")
    return out


def _label(name: str, targets: str, num_users: int) -> str:
    name = name if len(name) <= 30 else f"{name[:29]}…"
    return name if targets == "all" else f"  {targets} items ({num_users:,} users)"

"""The table of answers in docs/quality.md: each row of it one command, on the published protocol.

    python bench/quality.py baselines --data beauty --out quality              what needs no training, four rows
    python bench/quality.py sasrec --data beauty --seeds 0 1 2 --out quality   a recipe, trained as it stands
    python bench/quality.py apex --data beauty --split validation --set objective.code_weight=0 --name "no codes"
    python bench/quality.py apex --data beauty --split validation --of apex --set backbone.weights=1,0,0,0 --name alone
    python bench/quality.py --table quality                                    everything in that folder, as Markdown

A row is a recipe's name, or ``baselines``. For each seed a JSON file is written to OUT, with the figures of all users,
seen items kept and removed, what they depend on, minutes, machine, commit and command. One that is there is not asked
again: the test set answers once. A training that was stopped goes on where it was. The best weights are those of the
validation split; the test split is read after that, by ``genrec_fast.evaluate`` alone. Settings are compared with
``--split validation``, all users of it, and never with the test. ``--of`` asks a row's trained network again with
settings of its backbone that no training reads, such as the weights of ``apex``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import genrec_fast as gf
from genrec_fast.base.files import write_text
from genrec_fast.data import Dataset
from genrec_fast.evaluation.protocol import KS, protocol_facts
from genrec_fast.recipe.card import to_json
from genrec_fast.recipe.recipe import Recipe
from timing import environment

BASELINES = "baselines"
_FIGURES = [("recall", 5), ("ndcg", 5), ("recall", 10), ("ndcg", 10)]
HEADER = (
    "| answers | data | seen items | R@5 | N@5 | R@10 | N@10 | seeds | minutes of one core |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def recipe_of(row: str, changes: list[str]) -> Recipe:
    """The recipe that a row trains, with settings changed; of ``baselines``, the graph, which others stand beside."""
    recipe: Any = gf.recipes.transitions() if row == BASELINES else gf.recipes.get(row)
    for change in changes:
        path, _, text = change.partition("=")
        recipe = _with(recipe, path.split("."), text)
    assert isinstance(recipe, Recipe)
    return recipe


def _with(part: Any, path: list[str], text: str) -> Any:
    """A config with one setting changed, given as JSON, or numbers with commas between."""
    if path[1:]:
        return dataclasses.replace(part, **{path[0]: _with(getattr(part, path[0]), path[1:], text)})
    value = json.loads(f"[{text}]") if isinstance(getattr(part, path[0]), tuple) else json.loads(text)
    return dataclasses.replace(part, **{path[0]: tuple(value) if isinstance(value, list) else value})


@contextlib.contextmanager
def processor_seconds(kept: Path) -> Iterator[dict[str, float]]:
    """Adds the processor's time within the block, and wall time, to those of the runs before, in a file."""
    spent = json.loads(kept.read_text()) if kept.exists() else {"processor_s": 0.0, "wall_s": 0.0, "runs": 0}
    cpu, wall = time.process_time(), time.monotonic()
    try:
        yield spent
    finally:
        spent["processor_s"] += time.process_time() - cpu
        spent["wall_s"] += time.monotonic() - wall
        spent["runs"] += 1
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps(spent))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One row: what is trained, and what is asked of it."""

    row: str
    name: str
    changes: list[str]
    split: str
    of: str | None = None

    def file(self, data: Dataset, seed: int, out: Path) -> Path:
        """Where its result is, or will be."""
        end = ".json" if self.split == "test" else f".{self.split}.json"
        return out / f"{_words(self.name)}-{data.name}-{seed}{end}"

    def run(self, data: str, seed: int) -> str:
        """The name of the folder of its training."""
        return f"{_words(self.of or self.name)}-{data}-{seed}"


def _words(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def measure(asked: Asked, data: Dataset, seed: int, out: Path) -> dict[str, Any]:
    """Trains a row's recipe, or goes on with it, and asks the questions once."""
    row, runs = asked.row, out / "runs" / asked.run(data.name, seed)
    splits = gf.data.leave_one_out(data.interactions)
    recipe = recipe_of(row, asked.changes)
    if asked.of is None:
        with processor_seconds(runs.with_suffix(".spent.json")) as spent:
            model = gf.train(recipe, data, seed=seed, out=runs, splits=splits, device="cpu")
    else:
        model, spent = gf.load(runs), json.loads(runs.with_suffix(".spent.json").read_text())
        if dataclasses.replace(recipe, backbone=model.recipe.backbone) != model.recipe:
            raise SystemExit(f"--of {asked.of}: --set may change settings of the backbone alone")
        model.recipe, model.backbone.config = recipe, recipe.backbone
    begin = time.process_time()
    only = row == BASELINES
    questions = splits.test if asked.split == "test" else splits.validation
    found = gf.evaluate(model, questions, ks=KS, seen="both", train=splits.train if only else None)
    lines = [line for line in found.to_dict()["lines"] if line["targets"] == "all"]
    if only:
        lines = [line for line in lines if line["name"] != model.name]  # it stands there as "transition graph"
    else:
        lines = [line | {"name": asked.name} for line in lines]
    return {
        "row": row,
        "changes": asked.changes,
        "split": asked.split,
        "dataset": data.name,
        "seed": seed,
        "lines": lines,
        "protocol": protocol_facts(model, data, questions),
        "users_with_exact_lists": found.exact,
        "training": spent,
        "evaluation_processor_s": time.process_time() - begin,
        "recipe": to_json(model.recipe),
        "load_average": os.getloadavg()[0],
        "where": environment(),
    }


def results(folder: Path) -> list[dict[str, Any]]:
    """Everything that was measured, in the order of the files' names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: means over seeds, with the standard deviation where there are several."""
    groups: dict[tuple[str, str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for result in found:
        for line in result["lines"]:
            data = result["dataset"] + ("" if result["split"] == "test" else ", validation")
            key = (data, line["name"], line["seen"])
            groups.setdefault(key, []).append((result, line))
    order = sorted(groups, key=lambda key: (key[0], key[2], _figure(groups[key], "recall", 10)[0]))
    rows = [HEADER]
    for key in order:
        group = groups[key]
        cells = [shown(*_figure(group, name, k)) for name, k in _FIGURES]
        seeds = ", ".join(str(result["seed"]) for result, _ in group)
        minutes = statistics.mean(result["training"]["processor_s"] for result, _ in group) / 60
        rows.append(f"| {key[1]} | {key[0]} | {key[2]} | {' | '.join(cells)} | {seeds} | {minutes:.1f} |")
    return "\n".join(rows)


def _figure(group: list[tuple[dict[str, Any], dict[str, Any]]], name: str, k: int) -> tuple[float, float | None]:
    values = [float(line[name][str(k)]) for _, line in group]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def shown(mean: float, spread: float | None) -> str:
    """A figure of the table."""
    text = f"{mean:.4f}"[1:] if 0 <= mean < 1 else f"{mean:.4f}"
    return text if spread is None else f"{text} ± {f'{spread:.4f}'[1:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", help="a recipe, or baselines")
    parser.add_argument("--data", type=Path, help="dataset folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("quality"), help="folder of the results")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting of the recipe"
    )
    parser.add_argument("--name", default=None, help="of the row, where settings are changed")
    parser.add_argument("--of", default=None, metavar="NAME", help="ask this row's network, without training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, default=None, metavar="FOLDER", help="print what is there, and end")
    options = parser.parse_args()
    if options.table is not None:
        print(table(results(options.table)))
        return
    if options.row is None or options.data is None:
        parser.error("a row and --data must be given, or --table")
    torch.set_num_threads(options.threads)
    data = gf.data.load(options.data)
    if options.row == BASELINES and data.features is None:
        parser.error(f"{options.data} holds no item features, which baselines compare")
    if options.set and options.name is None:
        parser.error("--name must be given with --set: it is another row")
    name = options.name or options.row
    asked = Asked(row=options.row, name=name, changes=options.set, split=options.split, of=options.of)
    for seed in options.seeds:
        kept = asked.file(data, seed, options.out)
        if kept.exists():
            print(f"{kept} is there", file=sys.stderr)
            continue
        found = measure(asked, data, seed, options.out)
        write_text(kept, json.dumps(found, indent=2) + "\n")
    print(table(results(options.out)))


if __name__ == "__main__":
    main()

"""The sequential models beside each other on dataset folders: `python bench/attention_models.py DIR DIR --seeds 0 1 2`.

Trains every recipe of the table, asks it every question of the test set, and prints a Markdown table. Each row (data
set, model, seed) is a process of its own, so that its peak memory is its own, and leaves a JSON file in `--out`: what
is there is not done again, and a row that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import genrec_fast as gf
from genrec_fast.data import Dataset, leave_one_out
from genrec_fast.recipe.recipe import Recipe
from timing import peak_bytes

LONG = 50  # longest history, items, where users have many events: the published length
SHORT = 20  # and where they have few: the convention of the field's tables
LONG_MEAN = 30  # events a user, from which on histories count as long


def models(data: Dataset) -> dict[str, Recipe]:
    """Every row of the table for one data set; only the longest history and the kind of bias follow the data."""
    events = data.interactions.items
    max_items = LONG if events.values.shape[0] / max(1, len(events)) >= LONG_MEAN else SHORT
    hstu = gf.recipes.hstu()
    timed = "both" if data.interactions.timestamps is not None else "position"
    found = {
        f"HSTU, relative bias ({'positions and times' if timed == 'both' else 'positions'})": changed(hstu, bias=timed),
        "HSTU, no bias": changed(hstu, bias="none"),
        "SASRec, full cross-entropy": gf.recipes.sasrec(),
        "SASRec, BCE": gf.recipes.sasrec_bce(),
        "GRU4Rec": gf.recipes.gru4rec(),
        "BERT4Rec": gf.recipes.bert4rec(),
    }
    return {name: histories_of(recipe, max_items) for name, recipe in found.items()}


def changed(recipe: Recipe, **backbone: Any) -> Recipe:
    return dataclasses.replace(recipe, backbone=dataclasses.replace(recipe.backbone, **backbone))  # type: ignore[type-var]


def histories_of(recipe: Recipe, max_items: int) -> Recipe:
    batching = dataclasses.replace(recipe.batching, max_items=max_items)
    return dataclasses.replace(changed(recipe, max_items=max_items), batching=batching)


def measure(folder: Path, name: str, seed: int, epochs: int | None, out: Path) -> dict[str, Any]:
    """Trains and asks one row; seconds are the processor's, which other work on the machine hardly changes."""
    data = gf.data.load(folder)
    recipe = models(data)[name]
    if epochs is not None:
        train = dataclasses.replace(recipe.train, epochs=epochs)
        recipe = dataclasses.replace(recipe, train=train)
    began, busy = time.perf_counter(), time.process_time()
    model = gf.train(recipe, data, seed=seed, out=out, device="cpu")
    wall, busy = time.perf_counter() - began, time.process_time() - busy
    questions = leave_one_out(data.interactions).test
    began_asking = time.process_time()
    result = gf.evaluate(model, questions)
    asking = time.process_time() - began_asking
    losses = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    checked = [line for line in losses if "validation" in line]
    best = max(checked, key=lambda line: line["validation"]["ndcg@10"])
    return {
        "data": folder.name,
        "model": name,
        "seed": seed,
        "recall@10": result.recall[10],
        "ndcg@10": result.ndcg[10],
        "validation": best["validation"],
        "best_epoch": best["epoch"] + 1,
        "epochs": recipe.train.epochs,
        "epochs_run": checked[-1]["epoch"] + 1,
        "train_cpu_s": busy,
        "train_wall_s": wall,
        "users_per_cpu_s": len(questions) / asking,
        "peak_mib": peak_bytes() / 2**20,
        "parameters": sum(p.numel() for p in model.backbone.parameters()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; several seeds of one model are one line, mean and standard deviation."""
    lines = [
        "| data | model | seeds | Recall@10 | NDCG@10 | epochs | training, CPU min | users/CPU s | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["model"]), []).append(row)
    for (data, model), seeds in groups.items():
        cells = [data, model, str(len(seeds))]
        for figure in ("recall@10", "ndcg@10"):
            values = [row[figure] for row in seeds]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        cells.append(", ".join(f"{row['best_epoch']} of {row['epochs']}" for row in seeds))
        cells.append(f"{statistics.mean(row['train_cpu_s'] for row in seeds) / 60:.1f}")
        cells.append(f"{statistics.mean(row['users_per_cpu_s'] for row in seeds):,.0f}")
        cells.append(f"{max(row['peak_mib'] for row in seeds):,.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="dataset folders")
    parser.add_argument("--models", nargs="*", default=[], help="rows whose name begins so; all if none is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="in place of each recipe's own number")
    parser.add_argument("--out", type=Path, default=Path("runs/attention_models"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--row", nargs=2, metavar=("MODEL", "SEED"), help=argparse.SUPPRESS)  # one row, in this process
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.row is not None:
        (folder,), (name, seed) = args.data, args.row
        row = measure(folder, name, int(seed), args.epochs, row_folder(args.out, folder, name, int(seed)))
        row_file(args.out, folder, name, int(seed)).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        return
    rows = []
    for seed in args.seeds:
        for folder in args.data:
            for name in models(gf.data.load(folder)):
                if args.models and not any(name.lower().startswith(given.lower()) for given in args.models):
                    continue
                path = row_file(args.out, folder, name, seed)
                if not path.exists():
                    print(f"{folder.name}: {name}, seed {seed}", file=sys.stderr, flush=True)
                    command = [sys.executable, __file__, str(folder), "--out", str(args.out)]
                    command += ["--threads", str(args.threads), "--row", name, str(seed)]
                    command += [] if args.epochs is None else ["--epochs", str(args.epochs)]
                    subprocess.run(command, check=True)
                rows.append(json.loads(path.read_text(encoding="utf-8")))
    print(table(rows))


def row_folder(out: Path, folder: Path, name: str, seed: int) -> Path:
    return out / f"{folder.name}-{slug(name)}-{seed}"


def row_file(out: Path, folder: Path, name: str, seed: int) -> Path:
    path = row_folder(out, folder, name, seed).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()

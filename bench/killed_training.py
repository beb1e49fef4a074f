"""Kills a training again and again and goes on each time; then compares it, bit for bit, with one that nobody killed.

Run: python bench/killed_training.py [--kills 20] [RECIPE ...]        (marius and tiger; some minutes)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import genrec_fast as gf
from genrec_fast.data.synthetic import Shop
from genrec_fast.recipe.recipe import Recipe
from genrec_fast.training.log import read_log

CLOCK = ("elapsed_s", "items_per_s", "seconds")  # of a line of the log: what depends on how long things took


def small(name: str, epochs: int) -> Recipe:
    """The published recipe with many short epochs, each validated, and a checkpoint at every step."""
    recipe = gf.recipes.get(name)
    settings = dataclasses.replace(
        recipe.train,
        epochs=epochs,
        max_minutes=None,
        warmup_steps=5,
        learning_rate=3e-3,
        evaluate_every=1,
        evaluate_users=100,
        patience=0,
        log_every=5,
        checkpoint_minutes=1e-9,
    )
    return dataclasses.replace(recipe, train=settings)


def outcome(out: Path) -> dict[str, Any]:
    """Weights, the best epoch, and the log without what depends on the clock."""
    lines = [{key: value for key, value in line.items() if key not in CLOCK} for line in read_log(out / "log.jsonl")]
    best = max(line["epoch"] for line in lines if line.get("best"))
    return {"weights": load_file(out / "weights.safetensors"), "best epoch": best, "log": lines}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two outcomes do not share."""
    there = other["weights"]
    found = [f"weights of {name}" for name, tensor in one["weights"].items() if not tensor.equal(there[name])]
    return found + [name for name in ("best epoch", "log") if one[name] != other[name]]


def killed(name: str, epochs: int, out: Path, kills: int, moments: random.Random) -> int:
    """Trains in processes that are killed at any moment, ``kills`` times at most, and once to the end."""
    command = [sys.executable, __file__, name, "--epochs", str(epochs), "--out", str(out)]
    for done in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()  # the training begins
            time.sleep(moments.uniform(0.1, 2.0))
            child.kill()
        if child.returncode == 0:
            return done
        if child.returncode != -signal.SIGKILL:
            raise SystemExit(f"{name}: the training failed after {done} kills")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["marius", "tiger"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="what a killed process does: train the one recipe into this folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.out is not None:
        recipe, data = small(args.recipes[0], args.epochs), Shop(seed=0).dataset(num_users=300)
        print("begins", flush=True)
        gf.train(recipe, data, seed=3, out=args.out, show_progress=False)
        return
    bad = False
    for name in args.recipes:
        folder = Path(tempfile.mkdtemp())
        try:
            killed(name, args.epochs, folder / "whole", 0, random.Random(args.seed))
            kills = killed(name, args.epochs, folder / "killed", args.kills, random.Random(args.seed))
            whole, other = outcome(folder / "whole"), outcome(folder / "killed")
            found = differences(whole, other)
            bad |= bool(found) or kills < args.kills
            moved = len({line["validation"]["ndcg@10"] for line in whole["log"] if "validation" in line})
            print(
                f"{name}: killed {kills} times; {len(whole['log'])} lines of log, {moved} different validations, "
                f"best epoch {whole['best epoch']}; "
                + (f"DIFFERS in {json.dumps(found)}" if found else "equal to the last bit"),
                flush=True,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bad)


if __name__ == "__main__":
    main()

"""What every proof must show: it is short, a killed training of it ends with the same bits, and its folder loads."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

import genrec_fast as gf
from genrec_fast.base.weights import module_tensors
from proofs import shop

KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from genrec_fast.training.setup import Step
forward, calls = Step.forward, []
def counted(self, batch):
    calls.append(1)
    if len(calls) == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, batch)
Step.forward = counted
from proofs.suite import run
run({name!r}, sys.argv[1], sys.argv[2] or None)
"""


def run(name: str, out: Path | str, start: Path | str | None = None) -> gf.Recommender:
    """Trains a proof's recipe, with a checkpoint at every step."""
    recipe = importlib.import_module(f"proofs.{name}").recipe()
    recipe = shop.changed(recipe, checkpoint_minutes=0.0)
    start = None if start is None else gf.load(start)
    return gf.train(recipe, shop.data(), seed=3, out=out, start=start, device="cpu", show_progress=False)


class ProofSuite:
    """Set ``name``, and ``kill_at``: the step at which a training is killed."""

    starts = False
    """whether the recipe is trained from a model of the shop's recipe"""

    def test_it_is_short(self):
        text = (Path(__file__).parent / f"{self.name}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 100

    def test_a_killed_training_ends_with_the_same_bits(self, model, start, tmp_path):
        path = [str(Path(__file__).parent.parent), *sys.path]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED.format(step=self.kill_at, name=self.name), str(tmp_path), str(start or "")],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "weights.safetensors").exists()
        resumed = run(self.name, tmp_path, start)
        left, right = module_tensors(model), module_tensors(resumed)
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []
        assert torch.equal(model.catalog.item_codes, resumed.catalog.item_codes)

    def test_its_folder_loads(self, model, folder):
        loaded, histories = gf.load(folder), [[1, 2, 3], [4], [70, 5]]
        assert loaded.recipe == model.recipe
        for name in ("items", "codes", "scores", "exact", "bound"):
            ours, theirs = (getattr(m.recommend(histories), name) for m in (model, loaded))
            assert torch.equal(ours, theirs), name

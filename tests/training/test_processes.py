"""Two processes on one CPU: each takes every second batch, both end with the same weights, every time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.data import leave_one_out, num_training_batches
from genrec_fast.recipe.recommender import load
from genrec_fast.training import train
from genrec_fast.training.log import read_log
from genrec_fast.training.processes import Processes
from toy import toy_data, toy_recipe

# No device is named: on a machine without accelerators that must not make each process train for itself.
SCRIPT = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from toy import toy_data, toy_recipe
from genrec_fast.training import loop, train
from genrec_fast.base.weights import module_tensors
out, kill_at, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
learn = loop._Training._one_step
def one_step(self, batch):
    if self.progress.step == kill_at and self.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    learn(self, batch)
loop._Training._one_step = one_step
recipe = toy_recipe(epochs=4, checkpoint_minutes=0.0)
device = None if device == "none" else device
model = train(recipe, toy_data(users=200), seed=1, out=out, device=device, show_progress=False)
torch.save(module_tensors(model.backbone), out + "/rank" + os.environ["RANK"] + ".pt")
"""

slow = pytest.mark.slow
linux = pytest.mark.skipif(sys.platform != "linux", reason="the launcher's rendezvous is tested on Linux only")
no_accelerator = pytest.mark.skipif(torch.accelerator.is_available(), reason="gloo's sums are tested on the CPU")


def launch(folder, *, kill_at=-1, device="none"):
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(__file__).parent.parent), *sys.path]
    return subprocess.run(
        [*launcher, str(folder / "script.py"), str(folder), str(kill_at), device],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def train_two(folder, **options):
    done = launch(folder, **options)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def checks(folder):
    """What is in the log of the validations, without the clock's figures."""
    entries = [entry for entry in read_log(folder / "log.jsonl") if "validation" in entry]
    return [{name: entry[name] for name in ("step", "epoch", "validation", "best", "users")} for entry in entries]


def same_bits(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@slow
@linux
@no_accelerator
def test_two_processes_share_the_batches_agree_and_do_it_again_bit_for_bit(tmp_path):
    left, right = train_two(tmp_path / "once")
    assert same_bits(left, right)
    found = checks(tmp_path / "once")
    alone = num_training_batches(
        leave_one_out(toy_data(users=200).interactions).train, **dataclasses.asdict(toy_recipe().batching)
    )
    assert alone > 4
    assert [entry["step"] for entry in found] == [alone // 2 * epoch for epoch in (1, 2, 3, 4)]
    assert {entry["users"] for entry in found} == {200}
    assert found[-1]["validation"]["ndcg@10"] > found[0]["validation"]["ndcg@10"]
    assert load(tmp_path / "once").num_items == 30

    again, _ = train_two(tmp_path / "again", device="cpu")
    assert same_bits(left, again)
    assert checks(tmp_path / "again") == found

    killed = launch(tmp_path / "killed", kill_at=13)
    assert killed.returncode != 0
    assert len(checks(tmp_path / "killed")) == 1
    resumed = train_two(tmp_path / "killed")
    assert same_bits(left, resumed[0])
    assert same_bits(left, resumed[1])
    assert checks(tmp_path / "killed") == found


@no_accelerator
def test_launched_processes_that_did_not_join_are_refused(monkeypatch):
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = Processes(None)  # accelerate now takes this program for one that trains alone
    assert (alone.rank, alone.world, alone.device.type) == (0, 1, "cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnsupportedError, match=r"train: the 2 launched processes must train together on cpu, got 1"):
        Processes(None)
    with pytest.raises(InvalidValueError, match=r"device must have no number where 2 processes were launched, got 'c"):
        Processes("cuda:0")


@pytest.mark.parametrize("text", ["", "1", "0", "two"])
def test_one_process_joins_nothing(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    alone = Processes("cpu")
    module, values = torch.nn.Linear(2, 2), torch.ones(3)
    assert (alone.world, alone.wrap(module), alone.sum(values)) == (1, module, values)
    with alone.main_first():
        assert alone.rank == 0


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("ACCELERATE_USE_FSDP", "true", "every process holds all weights"),
        ("ACCELERATE_USE_FSDP", "1", "every process holds all weights"),
        ("ACCELERATE_USE_DEEPSPEED", "True", "every process holds all weights"),
        ("ACCELERATE_USE_MEGATRON_LM", "yes", "every process holds all weights"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "every process holds all weights"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "set the recipe's train.bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "set the recipe's batching.items_per_batch"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "networks are not compiled"),
    ],
)
@pytest.mark.parametrize("launched", ["", "2"])
def test_what_accelerate_was_told_and_is_not_done_is_refused(monkeypatch, name, value, instead, launched):
    monkeypatch.setenv("WORLD_SIZE", launched)
    monkeypatch.setenv(name, value)
    with pytest.raises(UnsupportedError, match=rf"^train: {name} must not be set \({instead}\), got '{value}'"):
        train(toy_recipe(epochs=1), toy_data(), device="cpu", show_progress=False)


def test_what_accelerate_says_by_itself_asks_for_nothing(monkeypatch):
    told = {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    for name, value in (told | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    assert Processes("cpu").world == 1


@pytest.mark.slow
@linux
@no_accelerator
def test_a_launch_with_fsdp_ends_with_a_word(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    done = launch(tmp_path / "sharded")
    assert done.returncode != 0
    assert "UnsupportedError: train: ACCELERATE_USE_FSDP must not be set" in done.stderr
    assert not (tmp_path / "sharded" / "weights.safetensors").exists()

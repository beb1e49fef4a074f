"""Two processes on one CPU: each takes every second batch, and both end with the same weights."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrec_fast.data import leave_one_out, num_training_batches
from genrec_fast.model import load
from genrec_fast.training.log import read_log
from toy import toy_data, toy_recipe

SCRIPT = """
import os, sys
import torch
torch.set_num_threads(1)
from toy import toy_data, toy_recipe
from genrec_fast.training import train
from genrec_fast.weights import module_tensors
model = train(toy_recipe(epochs=4), toy_data(users=200), seed=1, out=sys.argv[1], device="cpu", show_progress=False)
torch.save(module_tensors(model.backbone), sys.argv[1] + "/rank" + os.environ["RANK"] + ".pt")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the launcher's rendezvous is tested on Linux only")
def test_two_processes_share_the_batches_and_agree(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(Path(__file__).parent.parent), *sys.path]
    done = subprocess.run(
        [*launcher, str(tmp_path / "script.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left, right = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(left[name], right[name]) for name in left)
    log = read_log(tmp_path / "log.jsonl")
    checks = [entry for entry in log if "validation" in entry]
    alone = num_training_batches(
        leave_one_out(toy_data(users=200).interactions).train, **dataclasses.asdict(toy_recipe().batching)
    )
    assert alone > 4
    assert [entry["step"] for entry in checks] == [alone // 2 * epoch for epoch in (1, 2, 3, 4)]
    assert {entry["users"] for entry in checks} == {200}
    assert checks[-1]["validation"]["ndcg@10"] > checks[0]["validation"]["ndcg@10"]
    assert load(tmp_path).num_items == 30

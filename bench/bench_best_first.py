"""Best-first search against a beam search and one that widens until it is proven: one user's and 32 users' top 10.

The recipe is `marius`, untrained, its heads' weights made large so that its scores are apart as a trained model's are.
Run: pytest bench/bench_best_first.py -o python_files='bench_*.py' -s
A trained model instead: GENREC_BENCH_MODEL=runs/marius pytest bench/bench_best_first.py -o python_files='bench_*.py' -s
Rows of the network and time over all users of a dataset: bench/best_first.py.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.batch import Batch, Question, Ranked
from genrec_fast.base.query import Query
from genrec_fast.decoders.base import run
from models import histories, untrained

BEAM = gf.BeamConfig(num_beams=50, normalize="valid").build()
SIDES = {
    "best first": (gf.BestFirstConfig(normalize="valid").build(), True),
    "50 beams": (BEAM, False),
    "50 beams, exact": (BEAM, True),
}


@pytest.fixture(scope="module")
def model() -> gf.Recommender:
    folder = os.environ.get("GENREC_BENCH_MODEL")
    made = gf.load(folder) if folder else untrained(gf.recipes.marius())
    if not folder:
        with torch.no_grad():
            for head in made.backbone.heads:
                head.weight.mul_(40.0)
    return made


@pytest.mark.parametrize("users", [1, 32])
@pytest.mark.parametrize("side", SIDES)
def test_search(benchmark: Any, model: gf.Recommender, side: str, users: int) -> None:
    rows = gf.Jagged.from_rows([torch.tensor(row) for row in histories(users, num_items=model.num_items)])

    def answer(batch: Batch, name: str) -> Ranked:
        decoder, exact = SIDES[name]
        return run(decoder.begin(model, batch, Query(k=10, exact=exact)))

    with torch.inference_mode(), model.answering():
        batch = model.batch(Question(rows))
        ours, theirs = answer(batch, "best first"), answer(batch, "50 beams, exact")
        assert bool(ours.exact.all())
        for name in ("items", "codes", "scores"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        benchmark.pedantic(answer, (batch, side), rounds=20, warmup_rounds=2)
    benchmark.extra_info["users"] = users

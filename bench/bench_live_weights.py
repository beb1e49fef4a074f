"""What it costs to know, at every call, that a model is still the one that was packed.

Each line is one user's search with 50 beams on one thread: the whole call, the comparison of the model's parts
(``Snapshot.same_parts``), and the fingerprint of its weights (``Snapshot.mark``), each the least of many, in turn.
Run: pytest bench/bench_live_weights.py -s
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import genrec_fast as gf
from genrec_fast.nn import native
from models import TOKEN_OFFSET, build, histories, untrained
from timing import in_turn

ROUNDS_SECONDS = 2.0


def report(what: str, model: torch.nn.Module, name: str, call: Any) -> None:
    call()
    snapshot = native._packed[model][name].snapshot
    assert snapshot.same_parts(model)
    assert snapshot.mark() == native._packed[model][name].mark
    whole, parts, mark = in_turn(call, lambda: snapshot.same_parts(model), snapshot.mark, seconds=ROUNDS_SECONDS)
    size = sum(tensor.nbytes for tensor in snapshot.tensors) / 1e6
    print(
        f"\n{what}: {whole / 1e3:.2f} ms a call; parts {parts / 1e3:.3f} ms, {size:.1f} MB of weights "
        f"{mark / 1e3:.3f} ms ({size / mark * 1e3:.1f} GB/s): {100 * (parts + mark) / whole:.1f} %"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["t5", "qwen3"])
@pytest.mark.parametrize("users", [1, 32], ids=["1x50", "32x50"])
def test_transformers(name: str, dtype: str, users: int) -> None:
    torch.set_num_threads(1)
    model = build(name)
    codes = torch.randint(0, 256, (100_000, 4), generator=torch.Generator().manual_seed(0))
    trie = gf.build_trie(codes, codebook_sizes=(256,) * 4)
    prompts = torch.randint(3, 1000, (users, 80), generator=torch.Generator().manual_seed(1))
    live = gf.hf.compile(model, trie, token_offset=TOKEN_OFFSET[name], dtype=dtype)
    frozen = gf.hf.compile(model, trie, token_offset=TOKEN_OFFSET[name], dtype=dtype, frozen=True)
    answers = [recommender.recommend(prompts, 10, num_beams=50) for recommender in (live, frozen)]
    for field in dataclasses.fields(answers[0]):
        one, other = (getattr(answer, field.name) for answer in answers)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    report(f"{name} {users}x50 {dtype}", model, dtype, lambda: live.recommend(prompts, 10, num_beams=50))


def test_our_own() -> None:
    torch.set_num_threads(1)
    model = untrained(gf.recipes.marius())
    model.backbone.eval()  # as every search has it
    one = histories(1)
    report("marius 1x50", model.backbone, "float32", lambda: model.recommend(one, 10, num_beams=50))

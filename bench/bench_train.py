"""Items per second in training, for each recipe, and what a checkpoint costs.

The data is the synthetic shop with as many users as a few batches need; widths and batches are the recipes' own.
Run: pytest bench/bench_train.py -o python_files='bench_*.py' -s
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.base.weights import module_tensors
from genrec_fast.data import leave_one_out, training_batches
from genrec_fast.data.synthetic import Shop
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from genrec_fast.training.setup import coded_catalog, make_optimizer

SHOP_USERS, SHOP_ITEMS = 600, 2000


def parts(name: str) -> Any:
    torch.manual_seed(0)
    recipe, data = recipes.get(name), Shop(SHOP_ITEMS, feature_dim=384).dataset(SHOP_USERS)
    actions = torch.rand(data.interactions.items.values.numel(), 2) < 0.3  # the shop knows none; some recipes read them
    events = dataclasses.replace(data.interactions, actions=actions, action_names=("liked", "shared"))
    data = dataclasses.replace(data, interactions=events)
    histories = leave_one_out(data.interactions).train.items
    model = Recommender(recipe, coded_catalog(recipe, data, 0, None, reuse=False, histories=histories))
    if recipe.needs_start:
        model.keep_reference()  # what it compares with costs the same, trained or not
    return recipe, data, model


def different() -> list[str]:
    """A recipe of each network and loss, the one that was here first: what differs in settings alone takes as long."""
    found: dict[tuple[type, ...], str] = {}
    first = ("tiger", "hstu_ranking", "rpg", "sasrec")
    for name in (*first, *recipes.names()):
        recipe = recipes.get(name)
        if name != "transitions":  # counted, in no steps
            found.setdefault((type(recipe.backbone), type(recipe.objective)), name)
    return sorted(found.values())


@pytest.mark.parametrize("name", different())
def test_training_steps(benchmark: Any, name: str) -> None:
    recipe, data, model = parts(name)
    train = leave_one_out(data.interactions).train
    warming = recipe.train.learning_rate / 10  # the peak itself is for a network behind its warm-up
    optimizer = make_optimizer(model, dataclasses.replace(recipe.train, learning_rate=warming))
    batching = recipe.batching
    batches = training_batches(
        train,
        max_items=batching.max_items,
        targets=batching.targets,
        items_per_batch=batching.items_per_batch,
        seed=0,
        epoch=0,
    )
    batch = next(batches)

    def step() -> float:
        loss = model.objective(model, model.objective.prepare(model, model.batch(batch)))
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.value.detach())

    first = step()
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    assert step() < first  # it learns the batch it sees again and again
    items = batch.items.values.numel()
    benchmark.extra_info["items_per_second"] = items / benchmark.stats.stats.min
    targets = int((batch.targets >= 0).sum())
    rates = (
        f"{benchmark.extra_info['items_per_second']:,.0f} items/s, {targets / benchmark.stats.stats.min:,.0f} targets/s"
    )
    print(f"\n{name}: {items} items, {targets} targets, {1000 * benchmark.stats.stats.min:.0f} ms a step, {rates}")


def test_checkpoint(benchmark: Any, tmp_path: Path) -> None:
    recipe, _, model = parts("marius")
    optimizer = make_optimizer(model, recipe.train)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    weights, path = module_tensors(model), tmp_path / "checkpoint.safetensors"
    best = {name: tensor.clone() for name, tensor in weights.items()}
    benchmark.pedantic(save_checkpoint, (path, Progress(), weights, best, optimizer), rounds=5)
    begin = time.perf_counter()
    found = load_checkpoint(path)
    seconds = time.perf_counter() - begin
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in weights.items())
    size = path.stat().st_size / 2**20
    print(f"\ncheckpoint of {size:.0f} MiB: written in {benchmark.stats.stats.min:.3f} s, read in {seconds:.3f} s")

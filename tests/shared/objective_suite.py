"""What every objective must show on a recipe that trains by it; a test file joins by subclassing ``ObjectiveSuite``."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast import recipes
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data import leave_one_out, training_batches
from genrec_fast.data.synthetic import Shop
from genrec_fast.evaluation import figure_names
from genrec_fast.recipe.system import System

SMALL = {"width": 16, "hidden": 16, "depth_hidden": 16, "num_heads": 2, "num_layers": 1, "qk_dim": 8, "v_dim": 8}


class ObjectiveSuite:
    """Set ``recipe`` and ``objective``; ``draws``: whether the loss depends on torch's generator."""

    draws = False

    def system(self):
        torch.manual_seed(0)
        recipe = recipes.get(self.recipe)
        known = {field.name for field in dataclasses.fields(recipe.backbone)}
        small = {name: value for name, value in SMALL.items() if name in known}
        still = {name: 0.0 for name in ("dropout", "depth_dropout", "block_dropout") if name in known}
        recipe = dataclasses.replace(
            recipe, objective=self.objective, backbone=dataclasses.replace(recipe.backbone, **small, **still)
        )
        catalog = self.data().catalog
        codes, sizes = torch.arange(catalog.num_items)[:, None], (catalog.num_items,)
        if recipe.tokenizer is not None:
            codes, sizes = torch.cat([codes // 9, codes % 9], 1), (8, 9)
        events = self.data().interactions.items.values
        known = catalog.with_codes(codes, sizes)
        return System(recipe, dataclasses.replace(known, counts=torch.bincount(events, minlength=72))).train()

    def data(self):
        data = Shop(72, feature_dim=6).dataset(20)
        events = data.interactions
        done = torch.stack([events.items.values % 2 == 0, events.items.values % 3 == 0], 1)
        names = recipes.hstu_ranking().objective.actions
        return dataclasses.replace(data, interactions=dataclasses.replace(events, actions=done, action_names=names))

    def batch(self, system):
        """The first of a training, as the system's layout hands it on."""
        batching = dataclasses.asdict(system.recipe.batching) | {"items_per_batch": 100}
        train = leave_one_out(self.data().interactions).train
        return next(training_batches(train, **batching, seed=0, epoch=0))

    def loss(self, system, batch, seed=0):
        torch.manual_seed(seed)
        return system.objective(system, system.objective.prepare(system, system.layout(batch)))

    def test_the_loss_is_a_finite_mean_of_some_terms(self):
        system = self.system()
        loss = self.loss(system, self.batch(system))
        assert loss.value.shape == ()
        assert bool(loss.value.isfinite())
        assert loss.value.requires_grad
        assert type(loss.count) is int
        assert loss.count > 0
        assert all(isinstance(value, float) for value in loss.figures.values())

    def test_the_seed_decides(self):
        system = self.system()
        batch = self.batch(system)
        one, again, other = (float(self.loss(system, batch, seed).value.detach()) for seed in (1, 1, 2))
        assert one == again
        assert (one != other) == self.draws

    def test_preparing_changes_nothing_of_the_batch(self):
        system = self.system()
        batch = system.layout(self.batch(system))
        before = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        copies = {name: value.clone() for name, value in before.items() if isinstance(value, torch.Tensor)}
        system.objective.prepare(system, batch)
        assert all(getattr(batch, name) is value for name, value in before.items())
        assert all(torch.equal(getattr(batch, name), value) for name, value in copies.items())

    def test_steps_lower_the_loss(self):
        system = self.system()
        batch = self.batch(system)
        optimizer = torch.optim.Adam(system.parameters(), lr=0.01)
        first = float(self.loss(system, batch).value.detach())
        for step in range(15):
            self.loss(system, batch, step).value.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert float(self.loss(system, batch).value.detach()) < first

    def test_a_batch_without_targets_is_refused(self):
        system = self.system()
        batch = self.batch(system)
        for targets in (None, torch.full_like(batch.targets, -1)):
            with pytest.raises(
                InvalidValueError, match=r"must (have|be) (targets|labels of asked events|given to train)"
            ):
                self.loss(system, dataclasses.replace(batch, targets=targets))

    def test_trainings_are_judged_by_a_figure_of_the_evaluation(self):
        system = self.system()
        assert system.objective.metric.removeprefix("-") in figure_names(system)

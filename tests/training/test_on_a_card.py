"""Training through the kernels for cards, emulated: the losses and weights of the CPU's kernels, but for rounding."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

import genrec_fast as gf
from emulator import build as emulator
from genrec_fast.data.synthetic import Shop
from genrec_fast.ops import _cuda


@pytest.mark.parametrize("name", ["hstu", "sasrec"])
def test_an_epoch_ends_with_the_weights_that_it_has_on_the_cpu(name):
    data = Shop(seed=0).dataset(num_users=20)
    recipe = dataclasses.replace(getattr(gf.recipes, name)(), train=gf.TrainConfig(epochs=1))
    called: Counter[str] = Counter()

    def run(source, kernel, *rest):
        called[kernel] += 1
        emulator.run(source, kernel, *rest)

    def weights():
        return {name: x.detach().clone() for name, x in gf.train(recipe, data, seed=0).backbone.named_parameters()}

    expected = weights()
    _cuda.use_emulator(run)
    try:
        found = weights()
    finally:
        _cuda.use_emulator(None)
    for weight, value in expected.items():
        torch.testing.assert_close(found[weight], value, rtol=0, atol=1e-4)
    for part in ("", "_keys", "_queries"):
        assert any(kernel.startswith(f"jagged_attention{part}_short64") for kernel in called), called

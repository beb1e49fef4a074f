from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import CausalConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import FullSoftmaxConfig
from genrec_fast.objectives.full_softmax import BLOCK_ROWS, cross_entropy
from shared.catalogs import sized, system_of
from shared.objective_suite import ObjectiveSuite


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("targets", "items"), [(1, 1), (3, 7), (BLOCK_ROWS, 64), (BLOCK_ROWS + 5, 130)])
def test_equals_torch_in_value_and_gradient(targets, items, smoothing):
    torch.manual_seed(0)
    wanted = torch.randint(items, (targets,))
    results = []
    for function in (
        lambda s, t: cross_entropy(s, t, wanted, smoothing),
        lambda s, t: F.cross_entropy(s @ t.T, wanted, label_smoothing=smoothing),
    ):
        torch.manual_seed(1)
        states, table = torch.randn(targets, 6, requires_grad=True), torch.randn(items, 6, requires_grad=True)
        value = function(states, table)
        (value * 3).backward()
        results.append((value.detach(), states.grad, table.grad))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


def test_gradcheck():
    torch.manual_seed(0)
    states, table = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 9))
    assert torch.autograd.gradcheck(
        lambda s, t: cross_entropy(s, t, torch.tensor([0, 8, 3, 3, 1]), 0.1), (states, table)
    )


def test_large_logits_stay_finite():
    states = torch.tensor([[1e4, 0.0]], requires_grad=True)
    value = cross_entropy(states, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1]))
    value.backward()
    assert float(value.detach()) == pytest.approx(2e4)
    assert bool(torch.isfinite(states.grad).all())


def test_counts_targets_and_refuses_bad_settings():
    backbone = CausalConfig(width=8, num_heads=1, num_layers=1, hidden=8, max_items=4).build(sized((5,), 5))
    objective = FullSoftmaxConfig().build()
    assert objective(system_of(backbone), Batch(Jagged.from_rows([[0, 1]]), torch.tensor([1, 2]))).count == 2
    with pytest.raises(InvalidValueError, match=r"label_smoothing must be in \[0, 1\), got 1.0"):
        FullSoftmaxConfig(label_smoothing=1.0).build()


class TestFullSoftmax(ObjectiveSuite):
    recipe, objective = "sasrec", FullSoftmaxConfig()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_what_is_added_to_the_logits_is_learned_with_them(label_smoothing):
    """A dense matrix of the same numbers, in float64: the loss, and the gradients of all three."""
    torch.manual_seed(3)
    count, num_items, width = 600, 70, 8  # three blocks, and items that are no multiple of 64
    states = torch.randn(count, width, dtype=torch.float64, requires_grad=True)
    table = torch.randn(num_items, width, dtype=torch.float64, requires_grad=True)
    lengths = torch.randint(0, 9, (count,))
    items = Jagged.from_lengths(torch.randint(num_items, (int(lengths.sum()),)), lengths)  # the same item again, too
    values = torch.randn(items.values.numel(), dtype=torch.float64, requires_grad=True)
    targets = torch.randint(num_items, (count,))
    dense = torch.zeros(count, num_items, dtype=torch.float64)
    dense = dense.index_put((items.row_index(), items.values), values, accumulate=True)
    wanted = torch.nn.functional.cross_entropy(states @ table.T + dense, targets, label_smoothing=label_smoothing)
    expected = torch.autograd.grad(wanted, (states, table, values))
    found = cross_entropy(states, table, targets, label_smoothing, (items, values))
    torch.testing.assert_close(found, wanted)
    for got, want in zip(torch.autograd.grad(found, (states, table, values)), expected, strict=True):
        torch.testing.assert_close(got, want)

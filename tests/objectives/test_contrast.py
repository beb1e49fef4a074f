"""The fused loss of sampled objectives against plain formulas, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.objectives import _contrast
from genrec_fast.objectives._contrast import CACHED_FLOATS, contrast


def plain(states, table, targets, negatives, *, kind, scale, target_shift, negative_shift, hit, weight):
    ids = negatives.expand(len(targets), -1)
    positive = (states * table[targets]).sum(1) * scale
    negative = torch.einsum("md,mkd->mk", states, table[ids]) * scale
    if target_shift is not None:
        positive, negative = positive + target_shift, negative + negative_shift
    negative = negative.masked_fill(hit, -torch.inf)
    if kind == "softmax":
        return F.cross_entropy(torch.cat([positive[:, None], negative], 1), torch.zeros_like(targets))
    return (weight * F.softplus(-positive) + F.softplus(negative).sum(1)).mean()


def case(count, items, drawn, shared, seed=0, dtype=torch.float64, depth=5):
    generator = torch.Generator().manual_seed(seed)
    states, table = (torch.randn(n, depth, generator=generator, dtype=dtype) for n in (count, items))
    targets = torch.randint(items, (count,), generator=generator)
    negatives = torch.randint(items, (drawn,) if shared else (count, drawn), generator=generator)
    shifts = torch.randn(items, generator=generator, dtype=dtype)
    return states.requires_grad_(), table.requires_grad_(), targets, negatives, shifts


@pytest.mark.parametrize("block", [1, 3, 1 << 22])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["softmax", "bce"])
@pytest.mark.parametrize(("count", "items", "drawn"), [(1, 1, 1), (7, 5, 3), (20, 30, 0), (33, 11, 16)])
def test_equals_the_plain_formula(monkeypatch, kind, count, items, drawn, shared, block):
    monkeypatch.setattr(_contrast, "BLOCK_FLOATS", block * max(1, drawn) * 5)
    results = []
    for ours in (True, False):
        states, table, targets, negatives, shifts = case(count, items, drawn, shared)
        hit = targets[:, None] == negatives.expand(count, -1)
        given = {
            "kind": kind,
            "scale": 1.7,
            "target_shift": shifts[targets],
            "negative_shift": shifts[negatives],
        }
        if ours:
            value = contrast(
                states,
                table,
                targets,
                negatives,
                hits=lambda a, b, ids, wanted=targets: ids == wanted[a:b, None],
                positive_weight=0.6,
                **given,
            )
        else:
            value = plain(states, table, targets, negatives, hit=hit, weight=0.6, **given)
        (value * 3).backward()
        results.append((value.detach(), states.grad, table.grad))
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["softmax", "bce"])
@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck(kind, shared):
    states, table, targets, negatives, _ = case(4, 6, 3, shared)

    def value(s, t):
        return contrast(s, t, targets, negatives, kind=kind, hits=lambda a, b, ids: ids == targets[a:b, None])

    assert torch.autograd.gradcheck(value, (states, table))


def test_large_scores_stay_finite():
    states = torch.tensor([[1e4, 0.0]], requires_grad=True)
    table = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    for kind in ("softmax", "bce"):
        value = contrast(
            states,
            table,
            torch.tensor([1]),
            torch.tensor([0]),
            kind=kind,
            hits=lambda a, b, ids: torch.zeros(b - a, 1, dtype=torch.bool),
        )
        value.backward()
        assert float(value.detach()) == pytest.approx(2e4)
    assert bool(torch.isfinite(states.grad).all())
    assert bool(torch.isfinite(table.grad).all())


@pytest.mark.parametrize("shared", [True, False])
def test_under_autocast_products_are_low_and_sums_are_not(shared):
    states, table, targets, negatives, _ = case(40, 50, 8, shared, dtype=torch.float32)
    exact = contrast(states, table, targets, negatives, kind="softmax", hits=lambda a, b, ids: ids < 0)
    with torch.autocast("cpu", torch.bfloat16):
        low = contrast(states, table, targets, negatives, kind="softmax", hits=lambda a, b, ids: ids < 0)
    low.backward()
    assert low.dtype == torch.float32
    assert states.grad.dtype == table.grad.dtype == torch.float32
    assert float(low.detach()) == pytest.approx(float(exact.detach()), rel=2e-2)
    assert float(low.detach()) != float(exact.detach())


@pytest.mark.parametrize("shared", [True, False])
def test_memory_does_not_grow_with_targets_times_negatives(shared):
    """The largest tensor that is made stays below the block's size, whatever M and K."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.most = max(self.most, tensor.numel())
            return out

    states, table, targets, negatives, _ = case(1000, 200, 700, shared, dtype=torch.float32)
    with torch.no_grad(), Largest() as seen:
        contrast(states, table, targets, negatives, kind="bce", hits=lambda a, b, ids: ids == targets[a:b, None])
    given = negatives.numel()
    assert seen.most <= max(given, CACHED_FLOATS, 256 * 701 * (1 if shared else 5))

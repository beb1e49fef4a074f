from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.dropout import Dropout


def test_keeps_the_stated_share_and_the_mean():
    torch.manual_seed(0)
    dropped = Dropout(0.3)(torch.ones(400, 1001))
    kept = float((dropped != 0).float().mean())
    assert kept == pytest.approx(1 - 77 / 256, abs=0.003)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.005)
    assert dropped.unique().tolist() == [0.0, pytest.approx(256 / 179)]


def test_gradient_follows_the_mask():
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_does_nothing_outside_training_or_at_rate_0():
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_is_repeatable_from_the_seed():
    torch.manual_seed(7)
    first = Dropout(0.4)(torch.ones(100))
    torch.manual_seed(7)
    assert torch.equal(first, Dropout(0.4)(torch.ones(100)))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rate_outside_its_range(rate):
    with pytest.raises(InvalidValueError, match=rf"rate must be in \[0, 1\), got {rate}"):
        Dropout(rate)

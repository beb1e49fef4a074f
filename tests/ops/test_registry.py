"""One declaration per op: who runs where, and what a twin, a fake and a check are given."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError, SlowPathWarning, UnsupportedError
from genrec_fast.ops._registry import define, twins


def _check(x: torch.Tensor, limit: int) -> None:
    if x.numel() > limit:
        raise InvalidValueError(f"twice: x must hold at most {limit}, got {x.numel()}")


twice = define(
    "twice_for_tests(Tensor x, int limit, bool unread) -> Tensor",
    kernels={},
    twin=lambda x: x + x,
    fake=lambda x: x.new_empty(x.shape),
    check=_check,
)


def test_a_device_without_a_kernel_runs_the_twin_and_says_so_once(monkeypatch):
    monkeypatch.delenv("GENREC_FAST_STRICT", raising=False)
    x = torch.tensor([1.0, 2.0])
    with pytest.warns(SlowPathWarning, match="twice_for_tests: no kernel for cpu, its plain torch twin runs"):
        assert twice(x, 2, False).tolist() == [2.0, 4.0]
    assert twice(x, limit=3, unread=True).tolist() == [2.0, 4.0]  # a second warning would be an error here
    monkeypatch.setenv("GENREC_FAST_STRICT", "1")
    with pytest.raises(UnsupportedError, match="twice_for_tests: no kernel for cpu"):
        twice(x, 2, False)


def test_a_twin_refuses_what_its_check_refuses():
    with pytest.raises(InvalidValueError, match="twice: x must hold at most 1, got 2"):
        twins["twice_for_tests"](torch.ones(2), 1, False)


@pytest.mark.filterwarnings("ignore::genrec_fast.base.errors.SlowPathWarning")
def test_a_fake_takes_what_it_names(monkeypatch):
    monkeypatch.delenv("GENREC_FAST_STRICT", raising=False)
    compiled = torch.compile(lambda x: twice(x, 5, False), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert compiled(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_a_name_that_the_schema_lacks_is_found_at_once():
    with pytest.raises(AssertionError, match="which the op has not"):
        define("wrong_for_tests(Tensor x) -> Tensor", kernels={}, twin=lambda y: y, fake=lambda x: x)

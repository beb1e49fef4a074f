"""Checks that are made in many places."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from genrec_fast.base.checks import check_dense, check_flag, check_integers, check_number, whole_number
from genrec_fast.base.errors import GenrecError, InvalidTypeError, InvalidValueError
from genrec_fast.objectives import NextCodeConfig


def test_a_number_alone():
    check_number("op", "x", -2.5)
    for value, rule in ((math.nan, "finite"), (math.inf, "finite")):
        with pytest.raises(InvalidValueError, match=f"op: x must be {rule}, got {value}"):
            check_number("op", "x", value)
    with pytest.raises(InvalidTypeError, match="op: x must be a number, got True"):
        check_number("op", "x", True)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([1], "list"),
        (torch.ones(2), "torch.float32"),
        (torch.ones(2, dtype=torch.bool), "torch.bool"),
        (torch.ones(2, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(2, dtype=torch.uint16), "torch.uint16"),
        (torch.ones(2, dtype=torch.int64).to_sparse(), "torch.sparse_coo on cpu"),
        (torch.ones(2, dtype=torch.int64, device="meta"), "torch.strided on meta"),
        (torch.nested.nested_tensor([torch.ones(2, dtype=torch.int64)], layout=torch.jagged), "a nested tensor"),
    ],
)
def test_integers_are_integers(value, got):
    with pytest.raises(InvalidTypeError, match=re.escape(got)) as error:
        check_integers("op", "codes", value, "[m, t]")
    assert isinstance(error.value, GenrecError)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        assert check_integers("op", "codes", torch.ones(2, dtype=dtype), "[m, t]").dtype == dtype


def test_integers_are_held_as_they_are_meant():
    """torch indexes with the bits that a tensor holds, and these are the opposites."""
    negative = torch._neg_view(torch.tensor([-1, -2, -3]))
    assert negative.is_neg()
    found = check_integers("op", "codes", negative, "[m]")
    assert (found.is_neg(), found.tolist()) == (False, [1, 2, 3])


@pytest.mark.parametrize(
    "value",
    [None, "5", 2.5, True, 1j, [5], math.nan, torch.tensor(True), torch.tensor([1, 2]), np.bool_(True)],
    ids=repr,
)
def test_a_count_is_a_whole_number(value):
    with pytest.raises(InvalidTypeError, match=r"^op: k must be an int, got "):
        whole_number("op", "k", value)


def test_a_count_has_limits():
    for value in (5, np.int64(5), torch.tensor(5)):
        found = whole_number("op", "k", value)
        assert (found, type(found)) == (5, int)
    with pytest.raises(InvalidValueError, match="op: k must be at least 1, got 0"):
        whole_number("op", "k", 0)
    with pytest.raises(InvalidValueError, match="op: k must be at most 2147483647, got 9223372036854775808"):
        whole_number("op", "k", 1 << 63)


def test_a_tensor_has_data():
    gone = torch.ones(3)
    gone.untyped_storage().resize_(0)
    for value, got in ((gone, "one whose storage was taken away"), (torch.ones(2).to_sparse(), "torch.sparse_coo")):
        with pytest.raises(InvalidTypeError, match=f"op: x must be a dense tensor with data, got {got}"):
            check_dense("op", "x", value)
    with pytest.raises(InvalidTypeError, match="op: x must be a tensor, got list"):
        check_dense("op", "x", [1.0])
    with pytest.raises(InvalidTypeError, match="op: exact must be a bool, got 1"):
        check_flag("op", "exact", 1)


@pytest.mark.parametrize("weights", [(1e39, 1.0), (5e-324,), (10**40,)])
def test_weights_are_floats_of_32_bits(weights):
    with pytest.raises(
        InvalidValueError, match="NextCodeConfig: level_weights must have a sum from 1e-30 to 1e30, got"
    ):
        NextCodeConfig(level_weights=weights)

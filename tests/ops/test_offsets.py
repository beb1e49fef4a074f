"""Offsets become addresses: what is wrong with them is said before anything is read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops._tensors import check_offsets, require_offsets

CPU = torch.device("cpu")


@given(st.lists(st.integers(-3, 8), min_size=1, max_size=6), st.integers(0, 8), st.booleans())
def test_offsets_pass_exactly_if_they_partition(numbers, total, wide):
    offsets = torch.tensor(numbers, dtype=torch.int64 if wide else torch.int32)
    fine = numbers[0] == 0 and numbers[-1] == total and numbers == sorted(numbers)
    if fine:
        check_offsets("op", "offsets", offsets, total)
    else:
        with pytest.raises(InvalidValueError, match="op: offsets must "):
            check_offsets("op", "offsets", offsets, total)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([1, 5], r"op: lines must run from 0 to 5, got 1 to 5"),
        ([0, 6], r"op: lines must run from 0 to 5, got 0 to 6"),
        ([0, 4, 2, 5], r"op: lines must not decrease, got 2 after 4 at the end of row 1"),
        ([0, 2**62, 5], r"op: lines must not decrease, got 5 after 4611686018427387904 at the end of row 1"),
    ],
)
def test_errors_say_what_is_wrong(numbers, text):
    with pytest.raises(InvalidValueError, match=text):
        check_offsets("op", "lines", torch.tensor(numbers), 5)


def test_strided_offsets_are_read_as_they_are():
    check_offsets("op", "offsets", torch.tensor([0, 9, 2, 9, 5])[::2], 5)
    assert require_offsets("op", "offsets", torch.tensor([0, 9, 2], dtype=torch.int32)[::2], CPU).tolist() == [0, 2]


def test_the_kind_is_checked():
    with pytest.raises(InvalidTypeError, match=r"op: offsets must be int64 or int32 \[B \+ 1\], got torch.float32"):
        require_offsets("op", "offsets", torch.zeros(2), CPU)
    with pytest.raises(InvalidTypeError, match=r"op: offsets must be a tensor, got list"):
        require_offsets("op", "offsets", [0, 1], CPU)
    for shape in ((0,), (1, 1)):
        with pytest.raises(InvalidValueError, match=r"op: offsets must be \[B \+ 1\], got \["):
            require_offsets("op", "offsets", torch.zeros(shape, dtype=torch.int64), CPU)

"""The typed border: what C++ itself says of a tensor that is not what its kernel reads, whoever calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from calls import CALLS, call, equal, freed, misaligned, negated, strided

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops._registry import core

BOOK = torch.arange(6.0).view(3, 2)
GOOD = {
    "codes": torch.tensor([[0], [2]]),
    "codebooks": [BOOK],
    "out": torch.empty(2, 2),
    "num_threads": 1,
}


def decode(**changes):
    given = {**GOOD, **changes}
    core.rq_decode(**given)
    return given["out"]


def test_tensors_cross_as_they_are():
    assert torch.equal(decode(), BOOK[[0, 2]])


@pytest.mark.parametrize("held", [negated, misaligned, strided])
def test_what_is_held_in_another_way_is_copied(held):
    assert torch.equal(decode(codes=held(GOOD["codes"]), codebooks=[held(BOOK)]), BOOK[[0, 2]])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"codes": [[0]]}, InvalidTypeError, "rq_decode: codes must be a tensor, got list"),
        ({"codes": BOOK}, InvalidTypeError, r"rq_decode: codes must be int32 or int64 \[N, L\], got float32 \[3, 2\]"),
        ({"codes": torch.tensor([0])}, InvalidValueError, r"codes must be int32 or int64 \[N, L\], got int64 \[1\]"),
        (
            {"codebooks": [BOOK.half()]},
            InvalidTypeError,
            r"codebooks\[0\] must be float32 \[k, D\], got float16",
        ),
        ({"codebooks": BOOK}, InvalidTypeError, "argument codebooks must be of its kernel's type, got Tensor"),
        ({"codebooks": [BOOK, BOOK]}, InvalidValueError, r"codebooks must be one per level, got 2 for int64 \[2, 1\]"),
        ({"out": torch.empty(2, 3)}, InvalidValueError, r"out must be float32 \[2, 2\], got float32 \[2, 3\]"),
        ({"out": torch.empty(2, 2, 1)}, InvalidValueError, r"out must be float32 \[2, 2\], got float32 \[2, 2, 1\]"),
        ({"out": torch.empty(2, 4)[:, ::2]}, InvalidValueError, r"out must be contiguous on the CPU, got strides \[4,"),
        ({"out": misaligned(torch.empty(2, 2))}, InvalidValueError, "out must be aligned to its elements, got address"),
        ({"out": torch.empty(2, 2, device="meta")}, InvalidValueError, "on the CPU, got a tensor on meta"),
        (
            {"codes": freed(torch.zeros(2, 1).long())},
            InvalidValueError,
            r"codes must have data, got int64 \[2, 1\]",
        ),
        ({"num_threads": 1.5}, InvalidTypeError, "argument num_threads must be of its kernel's type, got float"),
        ({"depth": 2}, InvalidValueError, "rq_decode: arguments must be those of the kernel, got one named depth"),
    ],
)
def test_what_does_not_fit_is_named(change, error, text):
    with pytest.raises(error, match=text):
        decode(**change)


def test_arguments_may_come_without_names_and_in_any_order():
    out = torch.empty(2, 2)
    core.rq_decode(GOOD["codes"], [BOOK], out, 1)
    assert torch.equal(out, decode())
    assert torch.equal(decode(**dict(reversed(GOOD.items()))), out)
    with pytest.raises(InvalidValueError, match="arguments must be at most 4, got 5 without a name"):
        core.rq_decode(GOOD["codes"], [BOOK], out, 1, 2)
    with pytest.raises(InvalidValueError, match="argument num_threads must be given, got none of that name"):
        core.rq_decode(GOOD["codes"], [BOOK], out)


SCRIPT = """
import sys
import torch

del torch.Tensor.__dlpack_c_exchange_api__
from calls import CALLS, call, flat

torch.save({name: flat(call(name)) for name in CALLS}, sys.argv[1])
"""


@pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no exchange: all tests go without"
)
def test_a_torch_without_the_exchange_of_dlpack_gives_the_same(tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", SCRIPT, tmp_path / "found"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
    found = torch.load(tmp_path / "found")
    assert {name for name in CALLS if not equal(found[name], call(name))} == set()


def test_a_float_matrix_is_known_at_a_look():
    whole = torch.zeros(3, 4)
    for fits in (whole, whole.t(), whole.bfloat16(), whole.half(), whole[:0], torch.nn.Parameter(whole), whole[:, ::2]):
        assert core.is_float_matrix(fits)
    freed = torch.zeros(3, 4)
    freed.untyped_storage().resize_(0)
    others = [whole[0], whole[None], whole.double(), whole.int(), whole.to_sparse(), whole.to("meta"), freed, 5, None]
    for other in [*others, whole.as_subclass(Subclass)]:
        assert not core.is_float_matrix(other)


class Subclass(torch.Tensor):
    """Of a type of its own, which may mean anything."""

"""residual_norm: its twin by hand and against torch's own norms, the kernels of a card against the twin in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.ops import residual_norm
from genrec_fast.ops.reference.residual_norm import residual_norm as twin
from shared.cards import assert_no_race

WITHIN = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
PARTS = ("x", "added", "weight", "bias")


def case(rows, width, *, added=True, bias=True, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    args = {"x": (rows, width), "added": (rows, width), "weight": (width,), "bias": (width,)}
    args = {name: torch.randn(*shape, generator=generator).to(dtype) for name, shape in args.items()}
    return args | {name: None for name, there in {"added": added, "bias": bias}.items() if not there}


def called(args, to="cpu", **given):
    parts = {name: None if part is None else part.to(to) for name, part in args.items()}
    out, total = residual_norm(parts.pop("x"), parts.pop("weight"), **parts, **given)
    return out.cpu(), total.cpu()


def assert_right(args, found, kind, epsilon=1e-6):
    """The sum's bits are torch's; the norm is near the twin's in float64, of that sum."""
    out, total = found
    wanted = args["x"] if args["added"] is None else args["x"] + args["added"]
    assert total.dtype == out.dtype == wanted.dtype
    assert torch.equal(total, wanted)
    weight, bias = (None if args[name] is None else args[name].double() for name in ("weight", "bias"))
    right, _ = twin(wanted.double(), None, weight, bias, kind == "layer", epsilon)
    bound = WITHIN[out.dtype] * max(1.0, right.abs().max().item())
    torch.testing.assert_close(out.double(), right, rtol=0, atol=bound)


def test_by_hand():
    x, added, weight = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, -4.0]]), torch.tensor([1.0, 2.0])
    out, total = residual_norm(x, weight, added=added, epsilon=0.0)
    assert total.tolist() == [[3.0, -4.0]]
    torch.testing.assert_close(out, torch.tensor([[3.0, -8.0]]) / 12.5**0.5)
    out, total = residual_norm(x, weight, bias=torch.tensor([0.5, 0.0]), kind="layer", epsilon=0.75)
    assert total is x or torch.equal(total, x)
    torch.testing.assert_close(out, torch.tensor([[1.5, -3.0]]) / 3.0**0.5 + torch.tensor([[0.5, 0.0]]))


@given(st.integers(0, 4), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_twin_is_torchs_norm_of_the_sum(rows, width, added, bias, seed):
    args = case(rows, width, added=added, bias=bias, seed=seed)
    total = args["x"] + args["added"] if added else args["x"]
    shape, weight = (width,), args["weight"]
    out, _ = called(args, kind="layer", epsilon=0.01)
    torch.testing.assert_close(out, functional.layer_norm(total, shape, weight, args["bias"], 0.01))
    out, _ = called(args, kind="rms", epsilon=0.01)
    wanted = functional.rms_norm(total, shape, weight, 0.01)
    torch.testing.assert_close(out, wanted + args["bias"] if bias else wanted)


# The last rows of a block, one warp's most columns and one more, a block's; rows that are no multiple of 16 bytes.
SHAPES = [(1, 1), (5, 7), (9, 128), (3, 136), (4, 1000), (2, 1024), (3, 1025), (2, 1032), (2, 4096), (1, 5001)]


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", WITHIN)
def test_near_the_twin(device, dtype, shape, kind):
    args = case(*shape, dtype=dtype)
    assert_right(args, called(args, device, kind=kind), kind)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_with_and_without_its_parts(device, added, bias, kind):
    args = case(6, 24, added=added, bias=bias)
    assert_right(args, called(args, device, kind=kind, epsilon=0.1), kind, 0.1)


def test_rows_far_from_zero_keep_their_variance(device):
    args = case(3, 48, added=False, bias=False)
    args["x"] = args["x"] + 1000.0
    wanted = functional.layer_norm(args["x"].double(), (48,), args["weight"].double())
    found, _ = called(args, device, kind="layer", epsilon=1e-5)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("width", [24, 1100])
def test_a_row_depends_on_no_other(card, width):
    args = case(9, width, dtype=torch.bfloat16)
    together, _ = called(args, card)
    alone = args | {"x": args["x"][5:6], "added": args["added"][5:6]}
    assert torch.equal(called(alone, card)[0], together[5:6])


@pytest.mark.parametrize("how", ["every second", "misaligned"])
def test_what_a_card_cannot_read_in_place_is_copied(card, how):
    args = case(5, 16, dtype=torch.float16)

    def held(x):
        if how == "every second":
            return torch.stack([x, x], -1).flatten(-2).to(card)[..., ::2]
        return torch.cat([x.new_zeros(1), x.flatten()]).to(card)[1:].view(x.shape)

    found, total = called({name: held(part) for name, part in args.items()}, card)
    wanted, sums = called(args, card)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(total, sums)


def test_nobody_and_zeros(device):
    out, total = called(case(0, 8), device)
    assert out.shape == total.shape == (0, 8)
    args = case(2, 8, added=False, bias=False) | {"x": torch.zeros(2, 8)}
    assert torch.equal(called(args, device)[0], torch.zeros(2, 8))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_what_is_not_finite_stays_in_its_row(device, value, kind):
    args = case(3, 40, added=False)
    args["x"][1, 7] = value
    out, _ = called(args, device, kind=kind)
    assert bool(out[1, 7].isnan())
    assert bool(out[[0, 2]].isfinite().all())


GOOD = case(3, 4)
WRONG = [
    (
        {"x": GOOD["x"].double()},
        InvalidTypeError,
        r"x must be float32, bfloat16 or float16 \[R, D\], got torch.float64",
    ),
    ({"x": GOOD["x"][0]}, InvalidValueError, r"x must be \[R, D\] with D at least 1, got \[4\]"),
    ({"x": torch.ones(3, 0)}, InvalidValueError, r"with D at least 1, got \[3, 0\]"),
    ({"weight": GOOD["weight"].half()}, InvalidTypeError, "weight must be torch.float32 like x, got torch.float16"),
    ({"weight": torch.ones(5)}, InvalidValueError, r"weight must be \[4\], got \[5\]"),
    ({"added": GOOD["added"][:2]}, InvalidValueError, r"added must be \[3, 4\], got \[2, 4\]"),
    ({"bias": torch.ones(3)}, InvalidValueError, r"bias must be \[4\], got \[3\]"),
    ({"kind": "batch"}, InvalidValueError, "kind must be"),
    ({"epsilon": -1.0}, InvalidValueError, "epsilon must be at least 0, got -1.0"),
    ({"epsilon": torch.inf}, InvalidValueError, "epsilon must be a finite number, got inf"),
]


@pytest.mark.parametrize(("changes", "error", "text"), WRONG)
def test_what_does_not_fit_is_named(changes, error, text):
    with pytest.raises(error, match=f"residual_norm: .*{text}"):
        residual_norm(**(GOOD | changes))


def test_a_card_says_how_wide_rows_may_be(card):
    with pytest.raises(UnsupportedError, match=r"residual_norm: x must be at most \[2147483647, 16384\] on a card"):
        called(case(1, 16385), card)


def test_passes_opcheck_and_compiles():
    op = torch.ops.genrec_fast.residual_norm.default
    torch.library.opcheck(op, (*(GOOD[name] for name in PARTS), True, 0.5))
    torch.library.opcheck(op, (GOOD["x"], None, GOOD["weight"], None, False, 0.5))
    compiled = torch.compile(residual_norm, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(**GOOD), residual_norm(**GOOD)))


RACES = """
import functools, torch
from emulator.build import run
from emulator.test_emulator import THREADS
from genrec_fast.ops import _cuda
from ops.test_residual_norm import called, case
_cuda.use_emulator(functools.partial(run, flags=THREADS))
torch.set_num_threads(1)
for dtype, width in ((torch.float32, 72), (torch.bfloat16, 1100), (torch.float16, 2100), (torch.float32, 1500)):
    called(case(3, width, dtype=dtype), kind="layer")
print("done")
"""


@pytest.mark.slow
def test_no_kernel_misses_a_barrier():
    assert_no_race(RACES)

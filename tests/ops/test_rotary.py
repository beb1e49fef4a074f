"""rotary: its twin by hand and against nn.rotary, the kernel of a card against the twin in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.nn.rotary import rotate
from genrec_fast.ops import rotary
from genrec_fast.ops.reference.rotary import rotary as twin

WITHIN = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def angles(places, turned, base=10000.0):
    steps = torch.arange(0, turned, 2, dtype=torch.float32) / max(turned, 1)
    each = torch.arange(places).float()[:, None] * base**-steps
    return torch.cat([each.cos(), each.sin()], 1)


def case(rows, heads, width, turned=None, *, weight=False, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(rows, heads, width, generator=generator).to(dtype),
        "positions": torch.randint(50, (rows,), generator=generator),
        "table": angles(50, width if turned is None else turned),
        "weight": torch.randn(width, generator=generator).to(dtype) if weight else None,
    }


def called(args, to="cpu", **given):
    return rotary(**{name: None if part is None else part.to(to) for name, part in args.items()}, **given).cpu()


def assert_right(args, found, epsilon=1e-6):
    weight = None if args["weight"] is None else args["weight"].double()
    right = twin(args["x"].double(), args["positions"], args["table"].double(), weight, epsilon)
    assert found.dtype == args["x"].dtype
    bound = WITHIN[found.dtype] * max(1.0, right.abs().max().item())
    torch.testing.assert_close(found.double(), right, rtol=0, atol=bound)


def test_by_hand():
    """A quarter turn of the first and third channel, behind a norm; what stands behind the pairs is only normed."""
    x, table = torch.tensor([[[3.0, 1.0, 4.0, 0.0]], [[3.0, 1.0, 4.0, 0.0]]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight = torch.tensor([1.0, 1.0, 1.0, 9.0])
    out = rotary(x[..., [0, 2, 1, 3]], torch.tensor([1, 0]), table, weight=weight, epsilon=0.0)
    expected = torch.tensor([[[-4.0, 3.0, 1.0, 0.0]], [[3.0, 4.0, 1.0, 0.0]]]) / 6.5**0.5
    torch.testing.assert_close(out, expected)


@given(st.integers(0, 4), st.integers(0, 3), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_twin_is_what_networks_do(rows, heads, half, seed):
    args = case(rows, heads, 2 * half, seed=seed)
    torch.testing.assert_close(called(args), rotate(args["x"], args["positions"]))
    args = case(rows, heads, 2 * half, weight=True, seed=seed)
    normed = functional.rms_norm(args["x"], (2 * half,), args["weight"], 0.1)
    torch.testing.assert_close(called(args, epsilon=0.1), rotate(normed, args["positions"]))


SHAPES = [
    (1, 1, 1, 0),
    (3, 2, 2, 2),
    (5, 3, 20, 12),
    (7, 6, 64, 64),
    (2, 5, 128, 128),
    (3, 1, 256, 256),
    (2, 2, 250, 90),
]


@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", WITHIN)
def test_near_the_twin(device, dtype, shape, weight):
    args = case(*shape, weight=weight, dtype=dtype)
    assert_right(args, called(args, device))


def test_heads_of_a_longer_row_are_read_in_place(device, monkeypatch):
    args = case(4, 3, 16, weight=True)
    product = torch.full((4, 3 + 2, 16), torch.nan)
    product[:, 1:4] = args["x"]
    monkeypatch.setattr(torch.Tensor, "clone", lambda *args, **kwargs: pytest.fail("x was copied"))
    moved = {name: part.to(device) for name, part in args.items()} | {"x": product.to(device)[:, 1:4]}
    moved["positions"] = moved["positions"].int()
    assert_right(args, rotary(**moved).cpu())


@pytest.mark.parametrize("how", ["every second", "misaligned"])
def test_what_a_card_cannot_read_in_place_is_copied(card, how):
    args = case(5, 2, 16, weight=True, dtype=torch.bfloat16)

    def held(x):
        if how == "every second":
            return torch.stack([x, x], -1).flatten(-2).to(card)[..., ::2]
        return torch.cat([x.new_zeros(1), x.flatten()]).to(card)[1:].view(x.shape)

    assert torch.equal(called({name: held(part) for name, part in args.items()}, card), called(args, card))


@pytest.mark.parametrize("shape", [(0, 2, 8), (3, 0, 8)])
def test_nobody_and_no_heads(device, shape):
    assert called(case(*shape, weight=True), device).shape == shape


@pytest.mark.parametrize("position", [-1, 50, 2**62, -(2**63)])
def test_a_position_outside_the_table_is_nan_on_a_card_and_an_error_elsewhere(card, position):
    args = case(4, 2, 12, 8)
    wanted = rotary(**args) if card == "cuda" else twin(*args.values(), 1e-6)
    args["positions"][2] = position
    found = called(args, card)
    assert bool(found[2].isnan().all())
    found[2] = wanted[2]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_position_outside_the_table_is_named():
    args = case(4, 2, 12)
    args["positions"][2] = 50
    with pytest.raises(InvalidValueError, match=r"rotary: positions must be in \[0, 50\), got 50 in row 2"):
        called(args)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_head(device, value):
    args = case(3, 2, 8, weight=True)
    args["x"][1, 1, 3] = value
    found = called(args, device)
    assert bool(found[1, 1, 3].isnan())
    assert bool(found[[0, 2]].isfinite().all() & found[1, 0].isfinite().all())


GOOD = case(3, 2, 4, weight=True)
WRONG = [
    ({"x": GOOD["x"].double()}, InvalidTypeError, r"x must be float32, bfloat16 or float16 \[R, H, D\], got torch.fl"),
    ({"x": GOOD["x"][0]}, InvalidValueError, r"x must be \[R, H, D\] with D in \[1, 256\], got \[2, 4\]"),
    ({"x": torch.ones(3, 2, 257)}, InvalidValueError, r"D in \[1, 256\], got \[3, 2, 257\]"),
    (
        {"positions": GOOD["positions"].short()},
        InvalidTypeError,
        r"positions must be int64 or int32 \[R\], got torch.i",
    ),
    ({"positions": GOOD["positions"][:2]}, InvalidValueError, r"positions must be \[3\], got \[2\]"),
    ({"table": GOOD["table"].half()}, InvalidTypeError, r"table must be float32 \[P, W\], got torch.float16"),
    ({"table": GOOD["table"][:, :3]}, InvalidValueError, r"\[P, W\] with W even and at most 4, got \[50, 3\]"),
    ({"table": torch.ones(9, 6)}, InvalidValueError, r"with W even and at most 4, got \[9, 6\]"),
    ({"weight": GOOD["weight"].half()}, InvalidTypeError, "weight must be torch.float32 like x, got torch.float16"),
    ({"weight": torch.ones(5)}, InvalidValueError, r"weight must be \[4\], got \[5\]"),
    ({"epsilon": -1.0}, InvalidValueError, "epsilon must be at least 0, got -1.0"),
]


@pytest.mark.parametrize(("changes", "error", "text"), WRONG)
def test_what_does_not_fit_is_named(changes, error, text):
    with pytest.raises(error, match=f"rotary: .*{text}"):
        rotary(**(GOOD | changes))


def test_passes_opcheck_and_compiles():
    torch.library.opcheck(torch.ops.genrec_fast.rotary.default, (*GOOD.values(), 0.5))
    compiled = torch.compile(rotary, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**GOOD), rotary(**GOOD))

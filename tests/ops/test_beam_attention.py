"""beam_attention: its twin against every query on its own, plain torch and the kernels of a card against the twin."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import build as emulator
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops import T5Bias, _cuda, beam_attention, jagged_attention
from genrec_fast.ops import _cuda_beam_attention as cuda
from genrec_fast.ops.reference.beam_attention import beam_attention as twin
from shared.cards import assert_no_race

WITHIN = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
NAMES = ("q", "prompt_keys", "prompt_values", "offsets", "keys", "values", "parents", "bias")


def case(lengths, widths, heads=(2, 1), dims=(8, 8), *, bias=0, dtype=torch.float32, seed=0):
    """Users with prompts of ``lengths``, and a tree whose levels have ``widths`` rows; no prompts where lengths are
    one number, which counts users, no rows where there are no widths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    users = lengths if isinstance(lengths, int) else len(lengths)
    beams, (heads, key_heads), (width, value_width) = widths[-1] if widths else 5, heads, dims
    args = dict.fromkeys(NAMES) | {"q": 2 * normal(users, beams, heads, width)}
    if not isinstance(lengths, int):
        args["prompt_keys"] = normal(sum(lengths), key_heads, width)
        args["prompt_values"] = normal(sum(lengths), key_heads, value_width)
        args["offsets"] = torch.tensor([0, *lengths]).cumsum(0)
    if widths:
        args["keys"] = normal(users, sum(widths), key_heads, width)
        args["values"] = normal(users, sum(widths), key_heads, value_width)
        levels, first = [torch.full((users, widths[0]), -1)], 0
        for before, own in zip(widths, widths[1:], strict=False):
            levels.append(torch.randint(before, (users, own), generator=generator) + first)
            first += before
        args["parents"] = torch.cat(levels, 1).int()
    if bias:
        args["bias"] = torch.randn(heads, bias, generator=generator)
    return args


def called(args, to="cpu", **changes):
    args = {name: x.to(to) if isinstance(x, torch.Tensor) else x for name, x in (args | changes).items()}
    return beam_attention(**args)


def right(args, scale=None):
    """The twin in float64."""
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in args.values()]
    return twin(*wide, 1 / math.sqrt(args["q"].shape[3]) if scale is None else scale)


def assert_near(found, wanted, dtype):
    bound = WITHIN[dtype] * max(1.0, wanted.abs().max().item())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double().cpu(), wanted, rtol=0, atol=bound)


def one_by_one(args, scale):
    """Every query and head by itself, its keys in a list."""
    q = args["q"]
    wide = args["values"] if args["values"] is not None else args["prompt_values"]
    out = torch.zeros(*q.shape[:3], wide.shape[-1], dtype=torch.float64)
    group = q.shape[2] // wide.shape[-2]
    for user, beam, head in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        seen = []
        if args["keys"] is not None:
            row = args["keys"].shape[1] - q.shape[1] + beam
            while row >= 0:
                seen.append((args["keys"][user, row, head // group], args["values"][user, row, head // group]))
                row = int(args["parents"][user, row])
        if args["offsets"] is not None:
            begin, end = args["offsets"][user : user + 2].tolist()
            for token in reversed(range(begin, end)):
                seen.append([args[name][token, head // group] for name in ("prompt_keys", "prompt_values")])
        scores = [scale * float(q[user, beam, head].double() @ key.double()) for key, _ in seen]
        if args["bias"] is not None:
            last = args["bias"].shape[1] - 1
            scores = [s + float(args["bias"][head, min(back, last)]) for back, s in enumerate(scores)]
        total = sum(math.exp(s) for s in scores)
        for score, (_, value) in zip(scores, seen, strict=True):
            out[user, beam, head] += math.exp(score) / total * value.double()
    return out


def test_by_hand():
    """Weights are equal: a mean of the prompt and of the chain, which skips the row that is nobody's ancestor."""
    prompt, rows = torch.tensor([1.0, 3.0]).view(2, 1, 1), torch.tensor([8.0, 5.0, 0.0, 10.0]).view(1, 4, 1, 1)
    parents = torch.tensor([[-1, -1, 0, -1]], dtype=torch.int32)
    offsets = torch.tensor([0, 2])
    out = beam_attention(torch.zeros(1, 2, 1, 1), prompt, prompt, offsets, keys=rows, values=rows, parents=parents)
    assert out.flatten().tolist() == [3.0, pytest.approx(14 / 3)]
    far = torch.tensor([[0.0, 0.0, -1e9]])  # what is two tokens back, or more, is out of sight
    out = beam_attention(
        torch.zeros(1, 2, 1, 1), prompt, prompt, offsets, keys=rows, values=rows, parents=parents, bias=far
    )
    assert out.flatten().tolist() == [4.0, 6.5]


@given(
    st.one_of(st.integers(1, 2), st.lists(st.integers(0, 6), min_size=1, max_size=3)),
    st.lists(st.integers(1, 4), max_size=4),
    st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    st.sampled_from([(1, 1), (3, 5), (8, 2)]),
    st.integers(0, 4),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_the_twin_is_every_query_on_its_own(lengths, widths, heads, dims, bias, seed):
    if isinstance(lengths, int) and not widths:
        widths = [3]
    args = case(lengths, widths, heads, dims, bias=bias, seed=seed)
    torch.testing.assert_close(right(args, 0.7), one_by_one(args, 0.7))
    assert_near(called(args | {"scale": 0.7}), one_by_one(args, 0.7), torch.float32)


SHAPES = [
    # prompts, levels of rows, heads and key heads, widths of keys and values, entries of the bias
    ((70, 0, 3), (5, 5), (2, 2), (16, 16), 0),
    ((130, 65), (20, 9, 33), (4, 2), (64, 64), 9),
    ((17, 64), (3,), (6, 1), (65, 70), 40),
    ((33,), (7, 7, 7, 7, 7, 7), (2, 1), (128, 128), 0),
    ((5, 20), (4, 6), (3, 3), (136, 17), 3),
    ((9,), (2, 3), (2, 2), (17, 256), 0),
    ((40,), (), (2, 1), (32, 32), 0),
    (2, (6, 6, 6), (2, 1), (20, 12), 2),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", WITHIN)
def test_near_the_twin(device, dtype, shape):
    lengths, widths, heads, dims, bias = shape
    args = case(lengths, widths, heads, dims, bias=bias, dtype=dtype)
    assert_near(called(args, device), right(args), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_prompts_of_several_chunks(device, dtype):
    size = cuda.CHUNK
    args = case((2 * size + 70, size, 1, size + 1), (3, 3), (2, 1), (16, 16), bias=size + 30, dtype=dtype)
    assert_near(called(args, device), right(args), dtype)


def test_one_beam_is_causal_attention_with_the_bias_of_t5(device):
    """A prompt of 30 tokens and a chain of 5 rows, read by its last row: the last position of a row of 35."""
    args = case((30,), (1,) * 5, (2, 2), (8, 8))
    bias = T5Bias(torch.randn(32, 2, generator=torch.Generator().manual_seed(1)), bidirectional=False, max_distance=20)
    distances = bias.tables(2, 21, cross=False)[0]
    table = distances[:, :21].flip(1)  # of keys 0 to 20 tokens back; farther ones share a bucket
    keys = torch.cat([args["prompt_keys"], args["keys"][0]])
    values = torch.cat([args["prompt_values"], args["values"][0]])
    queries = args["q"][0].expand(35, -1, -1)
    wanted = jagged_attention(queries, keys, values, torch.tensor([0, 35]), kind="softmax", alpha=1.0, bias=bias)
    found = called(args | {"scale": 1.0, "bias": table}, device).cpu()
    torch.testing.assert_close(found[0], wanted[-1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_query_depends_on_no_other_user_and_no_other_beam(card, dtype):
    lengths = (70, cuda.CHUNK + 5, 3)
    args = case(lengths, (4, 4, 40), (4, 2), (16, 16), bias=20, dtype=dtype)
    together = called(args, card).cpu()
    begin, end = args["offsets"][1:3].tolist()
    alone = {name: args[name][1:2] for name in ("q", "keys", "values", "parents")}
    alone |= {name: args[name][begin:end] for name in ("prompt_keys", "prompt_values")}
    alone |= {"offsets": torch.tensor([0, end - begin]), "bias": args["bias"]}
    assert torch.equal(called(alone, card).cpu()[0], together[1])
    last = {name: alone[name][:, :9] for name in ("keys", "values", "parents")} | {"q": alone["q"][:, :1]}
    assert torch.equal(called(alone | last, card).cpu()[0], together[1, :1])


def test_the_same_bits_whatever_the_order_of_fibers():
    args, found = case((150, 20), (6, 6), (2, 1), (16, 16), bias=5, dtype=torch.bfloat16), []
    for seed in (0, 5):
        _cuda.use_emulator(functools.partial(emulator.run, seed=seed))
        found.append(called(args))
        _cuda.use_emulator(None)
    assert torch.equal(*found)


def test_slices_of_longer_caches_are_read_in_place(device, monkeypatch):
    args = case((20, 50), (4, 4), (2, 1), (16, 16))
    wanted = right(args)
    users = len(args["q"])
    moved = dict(args)
    for name, rows in (("keys", 12), ("values", 15)):  # behind what was written stands what is not there yet
        cache = torch.full((users, rows, 3, 40), torch.nan)
        cache[:, :8, 1:2, 8:24] = args[name]
        moved[name] = cache.to(device)[:, :8, 1:2, 8:24]
    wide = torch.cat([args["q"], torch.full_like(args["q"], torch.nan)], 3)
    moved["q"] = wide.to(device)[..., :16]
    both = torch.cat([args["prompt_keys"], args["prompt_values"]], 1).to(device)
    moved["prompt_keys"], moved["prompt_values"] = both[:, :1], both[:, 1:]
    moved["offsets"] = args["offsets"].int()
    monkeypatch.setattr(torch.Tensor, "contiguous", _only_small(torch.Tensor.contiguous))
    assert_near(called(moved, device), wanted, torch.float32)


def _only_small(copy):
    def contiguous(tensor, *args, **kwargs):
        assert tensor.is_contiguous() or tensor.dtype != torch.float32, "keys and values were copied"
        return copy(tensor, *args, **kwargs)

    return contiguous


@pytest.mark.parametrize("how", ["every second", "misaligned"])
def test_what_a_card_cannot_read_in_place_is_copied(card, how):
    args = case((20, 50), (4, 4), (2, 1), (16, 16), dtype=torch.bfloat16)

    def held(x):
        if how == "every second":
            return torch.stack([x, x], -1).flatten(-2).to(card)[..., ::2]
        return torch.cat([x.new_zeros(1), x.flatten()]).to(card)[1:].view(x.shape)

    changes = {name: held(args[name]) for name in ("q", "prompt_keys", "prompt_values", "keys", "values")}
    assert torch.equal(called(args, card, **changes), called(args, card))


def test_a_query_that_sees_nothing_gives_0(device):
    args = case((0, 3), (), (2, 1), (8, 8))
    found = called(args, device).cpu()
    assert torch.equal(found[0], torch.zeros(5, 2, 8))
    assert_near(found, right(args), torch.float32)
    nobody = case((0, 0), (), (2, 1), (8, 8))
    assert torch.equal(called(nobody, device).cpu(), torch.zeros(2, 5, 2, 8))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nobody_and_no_beams(device, shape):
    q, rows = torch.empty(*shape, 2, 4), torch.empty(shape[0], 3, 1, 4)
    parents = torch.full((shape[0], 3), -1, dtype=torch.int32)
    prompt, offsets = torch.ones(0, 1, 4), torch.zeros(shape[0] + 1, dtype=torch.int64)
    given = {"q": q, "prompt_keys": prompt, "prompt_values": prompt, "offsets": offsets}
    found = called({**given, "keys": rows, "values": rows, "parents": parents}, device)
    assert found.shape == (*shape, 2, 4)


@pytest.mark.parametrize("where", ["prompt_keys", "keys", "q"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_with_those_who_see_it(device, where, value):
    args = case((70, 9), (3, 3), (2, 1), (8, 8))
    args["parents"][0, 3:] = torch.tensor([0, 1, 1])
    args[where] = args[where].clone()
    place = {"prompt_keys": (65, 0, 3), "keys": (0, 1, 0, 3), "q": (0, 1, 0, 3)}[where]
    args[where][place] = value
    touched = {"prompt_keys": [0, 1, 2], "keys": [1, 2], "q": [1]}[where]
    found, wanted = called(args, device).cpu(), right(args)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert value != value or where != "q" or bool(wanted[0, 1, 0].isnan().all())
    rest = [beam for beam in range(3) if beam not in touched]
    assert bool(found[0, rest].isfinite().all() & found[1].isfinite().all())
    assert_near(found.nan_to_num(0), wanted.nan_to_num(0), torch.float32)


def test_scores_that_are_all_minus_infinity_give_nan(device):
    args = case((3,), (2,), (1, 1), (1, 4))
    args["q"][:] = -1.0
    args["prompt_keys"][:], args["keys"][:] = torch.inf, torch.inf
    assert bool(called(args, device).isnan().all())


@pytest.mark.parametrize(
    "offsets", [[0, 20, 10, 40], [1, 20, 30, 40], [0, 20, 30, 39], [0, 2**40, 30, 40], [0, -5, 30, 41]]
)
def test_offsets_that_break_their_rule_are_nan_on_a_card(card, offsets):
    args = case((20, 10, 10), (4, 4), (2, 1), (8, 8), bias=3)
    assert bool(called(args | {"offsets": torch.tensor(offsets)}, card).isnan().all())


@pytest.mark.parametrize("parent", [4, 5, 8, -2, 2**31 - 1, -(2**31)])
def test_a_parent_that_is_no_earlier_row_makes_those_below_it_nan_on_a_card(card, parent):
    args = case((20, 10), (4, 4), (2, 1), (8, 8), bias=3)
    wanted = right(args)
    args["parents"][1, 4] = parent
    found = called(args, card).cpu()
    assert bool(found[1, 0].isnan().all())
    found[1, 0] = wanted[1, 0]
    assert_near(found, wanted, torch.float32)


GOOD = case((3, 2), (2, 2), (4, 2), (8, 6), bias=3)
WRONG = [
    (
        {"q": GOOD["q"].double()},
        InvalidTypeError,
        r"q must be float32, bfloat16 or float16 \[B, W, H, D\], got torch.f",
    ),
    (
        {"q": GOOD["q"][0]},
        InvalidValueError,
        r"q must be \[B, W, H, D\] with H at least 1 and D in \[1, 256\], got \[2",
    ),
    ({"q": torch.ones(2, 2, 4, 257)}, InvalidValueError, r"D in \[1, 256\], got \[2, 2, 4, 257\]"),
    (
        {"offsets": None},
        InvalidValueError,
        "prompt_keys and prompt_values and offsets must be given together, got no of",
    ),
    ({"keys": None}, InvalidValueError, "keys and values and parents must be given together, got no keys"),
    ({"prompt_keys": GOOD["prompt_keys"].half()}, InvalidTypeError, "prompt_keys must be torch.float32 like q, got"),
    ({"values": GOOD["values"][0]}, InvalidValueError, r"values must be \[B, N, Hk, D\], got \[4, 2, 6\]"),
    ({"keys": GOOD["keys"][..., :7]}, InvalidValueError, r"keys must be \[B, N, Hk, 8\] with Hk that divides 4, got"),
    ({"prompt_keys": torch.ones(5, 3, 8)}, InvalidValueError, r"\[T, Hk, 8\] with Hk that divides 4, got \[5, 3, 8\]"),
    (
        {"prompt_values": torch.ones(4, 2, 6)},
        InvalidValueError,
        r"must be \[5, 2, Dv\] with Dv in \[1, 256\], got \[4,",
    ),
    (
        {"prompt_values": torch.ones(5, 2, 7)},
        InvalidValueError,
        r"values must be \[..., 2, 7\] like prompt_values, got",
    ),
    ({"offsets": torch.tensor([0, 5])}, InvalidValueError, r"offsets must be \[3\], got \[2\]"),
    ({"offsets": torch.tensor([0, 4, 3])}, InvalidValueError, "offsets must"),
    ({"parents": GOOD["parents"].long()}, InvalidTypeError, r"parents must be int32 \[B, N\], got torch.int64"),
    ({"parents": GOOD["parents"][:, 1:]}, InvalidValueError, r"parents must be \[2, 4\] like keys, got \[2, 3\]"),
    ({"q": torch.ones(2, 5, 4, 8)}, InvalidValueError, r"keys must be \[2, N at least 5, ...\], got \[2, 4, 2, 8\]"),
    (
        {"parents": torch.tensor([[-1, -1, 0, 1], [-1, -1, 2, 1]], dtype=torch.int32)},
        InvalidValueError,
        "parents must be -1 or an earlier row, got 2 for row 2 of user 1",
    ),
    ({"bias": torch.ones(3, 2)}, InvalidValueError, r"bias must be \[4, R\] with R at least 1, got \[3, 2\]"),
    ({"bias": torch.ones(4, 2).double()}, InvalidTypeError, "bias must be float32, bfloat16 or float16"),
    ({"scale": torch.nan}, InvalidValueError, "scale must be a finite number, got nan"),
    ({"scale": "1"}, InvalidTypeError, "scale must be a number"),
]


@pytest.mark.parametrize(("changes", "error", "text"), WRONG)
def test_what_does_not_fit_is_named(changes, error, text):
    with pytest.raises(error, match=f"beam_attention: .*{text}"):
        called(GOOD, **changes)


def test_neither_prompts_nor_rows():
    with pytest.raises(InvalidValueError, match="beam_attention: prompt_keys or keys must be given, got neither"):
        beam_attention(torch.ones(1, 1, 1, 1))


def test_passes_opcheck_and_compiles():
    op = torch.ops.genrec_fast.beam_attention.default
    torch.library.opcheck(op, (*GOOD.values(), 0.5))
    compiled = torch.compile(beam_attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**GOOD), called(GOOD))


RACES = """
import functools, torch
from emulator.build import run
from emulator.test_emulator import THREADS
from genrec_fast.ops import _cuda
from ops.test_beam_attention import called, case
_cuda.use_emulator(functools.partial(run, flags=THREADS))
torch.set_num_threads(1)
for dtype, width in ((torch.float32, 72), (torch.bfloat16, 16), (torch.float16, 72), (torch.bfloat16, 136)):
    called(case((140, 2), (2, 3), (2, 1), (width, width), bias=4, dtype=dtype))
print("done")
"""


@pytest.mark.slow
def test_no_kernel_misses_a_barrier():
    assert_no_race(RACES)

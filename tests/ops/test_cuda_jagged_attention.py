"""jagged_attention's kernels for cards: every choice among them, what broken rules give, and the same bits again."""

from __future__ import annotations

import functools
from contextlib import contextmanager

import pytest
import torch

from emulator import build as emulator
from genrec_fast.base import errors
from genrec_fast.ops import ALiBi, RelativeTimeBias, T5Bias, _cuda, jagged_attention
from genrec_fast.ops import _cuda_jagged_attention as cuda
from shared.cards import assert_no_race


@contextmanager
def emulated(seed=0):
    _cuda.use_emulator(functools.partial(emulator.run, seed=seed))
    try:
        yield
    finally:
        _cuda.use_emulator(None)


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def run(vectors, lengths, bias=None, **settings):
    """Result and gradients, of tables of the bias too."""
    leaves = [x.clone().requires_grad_() for x in vectors]
    out = jagged_attention(*leaves, offsets_of(lengths), bias=bias, **settings)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
    return [out.detach(), *(x.grad for x in leaves)]


WIDTHS = [(64, 64), (65, 70), (128, 128), (136, 17), (17, 264)]


@pytest.mark.parametrize("kind", ["silu", "softmax"])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("dtype", "at_most"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_heads_of_any_width_in_long_rows_and_short_ones(kind, widths, dtype, at_most):
    generator = torch.Generator().manual_seed(0)
    for lengths in ((70, 3, 0), (17, 3, 0, 2)):
        shapes = [(sum(lengths), 2, width) for width in (widths[0], *widths)]
        vectors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        bias = T5Bias(torch.randn(32, 2, generator=generator), bidirectional=False)
        expected = run([x.double() for x in vectors], lengths, bias, kind=kind)
        with emulated():
            found = run(vectors, lengths, bias, kind=kind)
        for ours, theirs in zip(found, expected, strict=True):
            bound = at_most * max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=bound)


def test_rows_that_are_short_on_average_go_a_warp_each():
    def name(rows, elements, dtype=torch.float32, width=64):
        q = torch.empty(elements, 1, width, dtype=dtype)
        return cuda._shape(q, q, q, rows).name

    assert name(100, 3200) == "short64_float32"
    assert name(100, 3300) == "long64_float32"
    assert name(100, 3300, torch.bfloat16) == "long64_bfloat16"
    assert name(100, 3200, torch.bfloat16, 72) == "long128_bfloat16"


def test_gradients_of_tables_have_the_same_bits_again_whatever_the_order_of_fibers():
    lengths = (90, 7)
    generator = torch.Generator().manual_seed(1)
    vectors = [torch.randn(97, 2, 16, generator=generator) for _ in range(3)]
    times = torch.randint(0, 10**6, (97,), generator=generator)
    tables = [torch.randn(1, 201, generator=generator), torch.randn(2, 60, generator=generator)]
    found = []
    for seed in (0, 5):
        leaves = [x.clone().requires_grad_() for x in (*vectors, *tables)]
        bias = RelativeTimeBias(leaves[3], leaves[4], times)
        with emulated(seed):
            out = jagged_attention(*leaves[:3], offsets_of(lengths), kind="silu", bias=bias, dropout_p=0.2, seed=9)
            out.square().sum().backward()
        found.append([out, *(x.grad for x in leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_one_worker_for_all_tiles_adds_up_the_same_tables(monkeypatch):
    lengths = (130, 20)
    vectors = [torch.randn(150, 1, 16) for _ in range(3)]

    def slopes():
        slopes = torch.rand(1, requires_grad=True)
        with emulated():
            out = jagged_attention(*vectors, offsets_of(lengths), kind="softmax", bias=ALiBi(slopes))
            out.backward(torch.ones_like(out).cumsum(2))
        return slopes.grad

    torch.manual_seed(0)
    many = slopes()
    monkeypatch.setattr(cuda, "_TABLE_TEAMS", 1)
    torch.manual_seed(0)
    torch.testing.assert_close(slopes(), many)


def poisoned(q, offsets, num_targets=None, distance=None, **changed):
    """Which rows of the result and of the gradients of q, k and v are all NaN; no other may have one."""
    settings = {
        **{"softmax": True, "causal": True, "alpha": 0.5, "max_seq_len": 0, "divide": True, "target_group_size": 1},
        **{"contextual_seq_len": 0, "max_attn_len": 0, "min_full_attn_seq_len": 0, "dropout_p": 0.0, "seed": 0},
    }
    tables = {"distance_bias": distance, "time_bias": None, "query_times": None, "key_times": None, "thresholds": None}
    given = {"q": q, "k": q, "v": q, "offsets": offsets, "kv_offsets": offsets, "num_targets": num_targets}
    given |= tables | settings | changed
    with emulated():
        out, sums = cuda.forward(given)
        *grads, to_distance, _ = cuda.backward(torch.ones_like(out), out, sums, given)
    rows = [x.isnan().flatten(1).all(1) for x in (out, *grads)]
    assert all(torch.equal(x.isnan().flatten(1).any(1), rows[0]) for x in (out, *grads))
    assert to_distance is None or bool(to_distance.isnan().all()) == bool(rows[0].any())
    return rows[0]


@pytest.mark.parametrize("short", [0, 1000])
class TestBrokenRulesGiveNaN:
    @pytest.fixture(autouse=True)
    def _choice(self, monkeypatch, short):
        monkeypatch.setattr(cuda, "_SHORT_ROWS", short)

    @pytest.mark.parametrize(
        "offsets",
        [[0, 20, 10, 40], [1, 20, 30, 40], [0, 20, 30, 39], [0, 20, 30, 41], [-5, 20, 30, 40], [0, 2**40, 30, 40]],
    )
    def test_offsets_everywhere(self, offsets):
        assert poisoned(torch.randn(40, 2, 8), torch.tensor(offsets)).all()

    def test_targets_in_their_row(self):
        rows = poisoned(torch.randn(40, 2, 8), torch.tensor([0, 20, 30, 40]), torch.tensor([3, 11, -1]))
        assert rows.tolist() == [False] * 20 + [True] * 20

    def test_a_row_longer_than_the_limit(self):
        rows = poisoned(torch.randn(40, 2, 8), torch.tensor([0, 20, 30, 40]), max_seq_len=15)
        assert rows.tolist() == [True] * 20 + [False] * 20

    def test_a_row_longer_than_the_table(self):
        rows = poisoned(torch.randn(40, 2, 8), torch.tensor([0, 20, 30, 40]), distance=torch.randn(1, 21))
        assert rows.tolist() == [True] * 20 + [False] * 20

    def test_times_that_cannot_be(self):
        times = torch.arange(40)
        times[25] = 2**62
        changed = {"time_bias": torch.randn(2, 5), "key_times": times, "thresholds": torch.tensor([1, 2])}
        rows = poisoned(torch.randn(40, 2, 8), torch.tensor([0, 20, 30, 40]), **changed)
        assert rows.tolist() == [False] * 20 + [True] * 10 + [False] * 10
        changed |= {"key_times": torch.arange(40), "thresholds": torch.tensor([2, 1])}
        assert poisoned(torch.randn(40, 2, 8), torch.tensor([0, 20, 30, 40]), **changed).all()


def test_a_query_that_sees_nothing_gives_0():
    q, k = torch.randn(5, 1, 8), torch.randn(3, 1, 8)
    options = {"kind": "softmax", "causal": False}
    with emulated():
        out = jagged_attention(q, k, k, torch.tensor([0, 2, 5]), kv_offsets=torch.tensor([0, 0, 3]), **options)
    assert torch.equal(out[:2], torch.zeros(2, 1, 8))
    torch.testing.assert_close(out[2:], jagged_attention(q[2:], k, k, torch.tensor([0, 3]), **options))


def test_tables_of_a_wrong_shape_are_refused():
    q, offsets = torch.randn(4, 2, 8), torch.tensor([0, 4])
    with pytest.raises(errors.InvalidValueError, match="2M - 1 distances for one or all of 2 heads, got"):
        poisoned(q, offsets, distance=torch.randn(3, 9))
    wrong = {"time_bias": torch.randn(2, 2), "key_times": torch.arange(4), "thresholds": torch.tensor([1, 2])}
    with pytest.raises(errors.InvalidValueError, match="one time weight more than thresholds"):
        poisoned(q, offsets, **wrong)


RACES = """
import functools, torch
from emulator.build import run
from emulator.test_emulator import THREADS
from genrec_fast.ops import RelativeTimeBias, _cuda, jagged_attention, jagged_dense_matmul
from genrec_fast.ops import _cuda_jagged_attention as cuda
_cuda.use_emulator(functools.partial(run, flags=THREADS))
torch.set_num_threads(1)
for short, dtype, kind in ((0, torch.float32, "silu"), (0, torch.bfloat16, "softmax"), (99, torch.bfloat16, "silu")):
    cuda._SHORT_ROWS = short
    leaves = [torch.randn(72, 1, 16).to(dtype).requires_grad_() for _ in range(3)]
    tables = [torch.randn(1, 161).requires_grad_(), torch.randn(1, 40).requires_grad_()]
    bias = RelativeTimeBias(*tables, torch.arange(72) ** 2)
    out = jagged_attention(*leaves, torch.tensor([0, 70, 72]), kind=kind, bias=bias, dropout_p=0.1, seed=1)
    out.float().sum().backward()
values = torch.randn(70, 8, requires_grad=True)
matrix = torch.randn(2, 8, 70, requires_grad=True)
jagged_dense_matmul(values, torch.tensor([0, 66, 70]), matrix).sum().backward()
print("done")
"""


@pytest.mark.slow
def test_no_kernel_misses_a_barrier():
    assert_no_race(RACES)

"""jagged_attention against what torch offers: a loop over users, padded HSTU, padded and looped SDPA.

Each pair gives equal results, asserted before both are timed in turn in one process; the table shows minima.
`pytest bench/bench_jagged_attention.py -s --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.ops import RelativeTimeBias, jagged_attention
from timing import in_turn
from workloads import ROWS, Rows

FLOPS = 115e9  # of this machine's sgemm, one thread (bench_gemm.py)


class Hstu:
    """HSTU in torch ops: one user after the other, or padded as the reference is."""

    def __init__(self, shape: Rows) -> None:
        self.shape, self.alpha = shape, shape.width**-0.5
        self.rows = shape.offsets().tolist()
        length = torch.arange(shape.longest)
        self.seen = length[:, None] >= length[None, :]
        lengths = torch.tensor(self.rows).diff()
        self.inside = length[None, :] < lengths[:, None]  # [B, N]

    def loop(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = []
        for begin, end in zip(self.rows, self.rows[1:], strict=False):
            a, b, c = (x[begin:end].transpose(0, 1) for x in (q, k, v))
            scores = torch.matmul(a, b.transpose(1, 2)).mul_(self.alpha)
            weights = F.silu(scores).mul_(1 / self.shape.longest)
            outs.append(torch.matmul(weights.tril_(), c).transpose(0, 1))
        return torch.cat(outs)

    def padded(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a, b, c = (self.pad(x) for x in (q, k, v))
        weights = F.silu(torch.einsum("bhxd,bhyd->bhxy", a, b) * self.alpha) / self.shape.longest
        return self.unpad(torch.einsum("bhxy,bhyd->bhxd", weights * self.seen, c))

    def pad(self, x: Tensor) -> Tensor:
        dense = x.new_zeros(*self.inside.shape, *x.shape[1:])
        return dense.masked_scatter(self.inside[:, :, None, None], x).transpose(1, 2)

    def unpad(self, dense: Tensor) -> Tensor:
        return dense.transpose(1, 2)[self.inside]


class Sdpa(Hstu):
    """Softmax attention by torch's fused kernel."""

    def loop(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = []
        for begin, end in zip(self.rows, self.rows[1:], strict=False):
            a, b, c = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
            outs.append(F.scaled_dot_product_attention(a, b, c, is_causal=True)[0].transpose(0, 1))
        return torch.cat(outs)

    def padded(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a, b, c = (self.pad(x) for x in (q, k, v))
        return self.unpad(F.scaled_dot_product_attention(a, b, c, is_causal=True))


Call = Callable[[Tensor, Tensor, Tensor], Tensor]


def forward(call: Call, vectors: list[Tensor]) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        with torch.no_grad():
            return [call(*vectors[:3])]

    return run


def both(call: Call, vectors: list[Tensor], tables: tuple[Tensor, ...] = ()) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in vectors[:3]]
        out = call(*leaves)
        return [out, *torch.autograd.grad(out, [*leaves, *tables], vectors[3])]

    return run


def assert_close(ours: list[Tensor], theirs: list[Tensor], bound: float = 1e-5) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        largest = max(1.0, other.abs().max().item())
        torch.testing.assert_close(mine.float(), other.float(), rtol=0, atol=bound * largest)


def flops(shape: Rows, products: int) -> int:
    lengths = shape.offsets().diff()
    return int((lengths * (lengths + 1) // 2).sum()) * shape.heads * 2 * shape.width * products


def record(benchmark, name: str, what: str, rival: str, ours: Callable, theirs: Callable, products: int) -> None:
    mine, other = in_turn(ours, theirs)
    limit = flops(ROWS[name], products) / FLOPS * 1e6 / mine
    benchmark.extra_info.update(workload=name, level=what, ours_us=mine, rival_us=other, rival=rival, limit=limit)
    benchmark.pedantic(ours, rounds=3)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("rival", ["loop", "padded"])
@pytest.mark.parametrize("pass_", ["forward", "forward and backward"])
@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_float32(benchmark, kind, pass_, rival, name):
    shape = ROWS[name]
    offsets, vectors = shape.offsets(), shape.vectors()
    other = getattr((Hstu if kind == "silu" else Sdpa)(shape), rival)
    longest = shape.longest if kind == "silu" else None

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return jagged_attention(q, k, v, offsets, kind=kind, max_seq_len=longest)

    wrap, products = (forward, 2) if pass_ == "forward" else (both, 7)
    assert_close(wrap(ours, vectors)(), wrap(other, vectors)())
    record(benchmark, name, f"{kind}, {pass_}", f"torch, {rival}", wrap(ours, vectors), wrap(other, vectors), products)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kind", ["silu", "softmax"])
def test_bfloat16_against_our_float32(benchmark, kind, name):
    shape = ROWS[name]
    offsets, vectors, low = shape.offsets(), shape.vectors(), shape.vectors(torch.bfloat16)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return jagged_attention(q, k, v, offsets, kind=kind)

    assert_close(forward(call, low)(), forward(call, vectors)(), 5e-2)
    record(
        benchmark,
        name,
        f"{kind}, bfloat16, forward",
        "ours, float32",
        forward(call, low),
        forward(call, vectors),
        2,
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("pass_", ["forward", "forward and backward"])
def test_relative_bias_against_none(benchmark, pass_, name):
    shape = ROWS[name]
    offsets, vectors = shape.offsets(), shape.vectors()
    generator = torch.Generator().manual_seed(2)
    gaps = torch.rand(vectors[0].shape[0], generator=generator).pow(8).mul(1e7).long()  # mostly short, some of months
    tables = [torch.randn(2 * shape.longest - 1), torch.randn(129)]
    tables = [table.requires_grad_() for table in tables]
    bias = RelativeTimeBias(*tables, gaps.cumsum(0))

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return jagged_attention(q, k, v, offsets, kind="silu", max_seq_len=shape.longest)

    def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return jagged_attention(q, k, v, offsets, kind="silu", max_seq_len=shape.longest, bias=bias)

    ours, without = forward(biased, vectors), forward(plain, vectors)
    if pass_ != "forward":
        ours, without = both(biased, vectors, tuple(tables)), both(plain, vectors)
    expected = jagged_attention(
        *(x.double() for x in vectors[:3]), offsets, kind="silu", max_seq_len=shape.longest, bias=bias
    )
    assert_close(ours()[:1], [expected])
    record(
        benchmark, name, f"silu, relative bias, {pass_}", "ours, no bias", ours, without, 2 if pass_ == "forward" else 7
    )


def test_memory(benchmark):
    """Peak of one forward and backward pass of the longer workload, above what its inputs take."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    shape = ROWS["l"]
    offsets, vectors = shape.offsets(), shape.vectors()

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return jagged_attention(q, k, v, offsets, kind="silu", max_seq_len=shape.longest)

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    benchmark.pedantic(both(ours, vectors), rounds=1)
    peak = resident("VmHWM") - before
    benchmark.extra_info["peak_bytes"] = peak
    inputs = sum(x.numel() * 4 for x in vectors)
    print(f"\nl, silu, forward and backward: {peak / 2**20:.0f} MiB beside inputs of {inputs / 2**20:.0f} MiB")
    assert peak < 200e6

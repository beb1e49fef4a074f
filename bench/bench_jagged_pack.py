"""jagged_pack against torch: a loop over the rows, padded index ops, segment_reduce, nested tensors.

Both sides give equal values, asserted before they are timed in turn in one process; the table shows minima.
`pytest bench/bench_jagged_pack.py --benchmark-json=run.json && python bench/report.py run.json`
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast import ops
from timing import in_turn

WIDTH = 64
LENGTHS = {"s": (50, 200), "l": (200, 1024)}  # mean and longest of 32 rows, as the attention benchmarks have
Side = Callable[[], object]


def rows(name: str) -> tuple[list[int], Tensor]:
    mean, longest = LENGTHS[name]
    drawn = torch.empty(32).exponential_(1 / mean, generator=torch.Generator().manual_seed(0))
    lengths = [longest, *drawn.long().clamp(1, longest).tolist()[1:]]
    return lengths, torch.tensor([0, *lengths]).cumsum(0)


def to_padded(name: str, rival: str) -> tuple[Side, Side]:
    lengths, offsets = rows(name)
    values, longest = torch.randn(sum(lengths), WIDTH), max(lengths)
    places = torch.arange(longest)[None, :] < offsets.diff()[:, None]
    nested = torch.nested.nested_tensor_from_jagged(values, offsets)

    def index() -> Tensor:
        out = values.new_zeros(len(lengths), longest, WIDTH)
        out[places] = values
        return out

    rivals: dict[str, Side] = {
        "loop": lambda: torch.nn.utils.rnn.pad_sequence(values.split(lengths), batch_first=True),
        "index": index,
        "nested": lambda: torch.nested.to_padded_tensor(nested, 0.0, (len(lengths), longest, WIDTH)),
    }
    return lambda: ops.to_padded(values, offsets, longest), rivals[rival]


def from_padded(name: str, rival: str) -> tuple[Side, Side]:
    lengths, offsets = rows(name)
    dense, total = torch.randn(len(lengths), max(lengths), WIDTH), sum(lengths)
    places = torch.arange(max(lengths))[None, :] < offsets.diff()[:, None]
    rivals: dict[str, Side] = {
        "loop": lambda: torch.cat([row[:n] for row, n in zip(dense, lengths, strict=True)]),
        "index": lambda: dense[places],
    }
    return lambda: ops.from_padded(dense, offsets, total=total), rivals[rival]


def concat(name: str, rival: str) -> tuple[Side, Side]:
    lengths, offsets = rows(name)
    values, targets = torch.randn(sum(lengths), WIDTH), torch.randn(len(lengths), 8, WIDTH)

    def loop() -> Tensor:
        return torch.cat([x for pair in zip(values.split(lengths), targets, strict=True) for x in pair])

    return lambda: ops.jagged_concat([values, targets], [offsets, None])[0], {"loop": loop}[rival]


def segment_sum(name: str, rival: str) -> tuple[Side, Side]:
    lengths, offsets = rows(name)
    values = torch.randn(sum(lengths), WIDTH)
    owners = torch.repeat_interleave(torch.tensor(lengths))
    rivals: dict[str, Side] = {
        "loop": lambda: torch.stack([row.sum(0) for row in values.split(lengths)]),
        "index": lambda: values.new_zeros(len(lengths), WIDTH).index_add_(0, owners, values),
        "segment_reduce": lambda: torch.segment_reduce(values, "sum", offsets=offsets, initial=0.0),
    }
    return lambda: ops.segment_sum(values, offsets), rivals[rival]


def matmul(name: str, rival: str) -> tuple[Side, Side]:
    lengths, offsets = rows(name)
    values, dense = torch.randn(sum(lengths), WIDTH), torch.randn(len(lengths), WIDTH, WIDTH)

    def loop() -> Tensor:
        return torch.cat([x @ y for x, y in zip(values.split(lengths), dense, strict=True)])

    return lambda: ops.jagged_dense_matmul(values, offsets, dense), {"loop": loop}[rival]


def matmul_training(name: str, rival: str) -> tuple[Side, Side]:
    lengths, offsets = rows(name)
    values = torch.randn(sum(lengths), WIDTH, requires_grad=True)
    dense = torch.randn(len(lengths), WIDTH, WIDTH, requires_grad=True)
    grad = torch.randn(sum(lengths), WIDTH)

    def ours() -> Tensor:
        return torch.cat(
            [
                x.flatten()
                for x in torch.autograd.grad(ops.jagged_dense_matmul(values, offsets, dense), (values, dense), grad)
            ]
        )

    def loop() -> Tensor:
        out = torch.cat([x @ y for x, y in zip(values.split(lengths), dense, strict=True)])
        return torch.cat([x.flatten() for x in torch.autograd.grad(out, (values, dense), grad)])

    return ours, {"loop": loop}[rival]


def embedding_training(name: str, rival: str) -> tuple[Side, Side]:
    lengths, _ = rows(name)
    table = torch.randn(100_000, WIDTH, requires_grad=True)
    ids = torch.randint(0, len(table), (sum(lengths),), generator=torch.Generator().manual_seed(1))
    grad = torch.randn(len(ids), WIDTH)
    sparse = rival == "sparse"

    def ours() -> Tensor:
        (found,) = torch.autograd.grad(ops.embedding(table, ids, sparse_grad=sparse), table, grad)
        return found.values() if sparse else found

    def torchs() -> Tensor:
        (found,) = torch.autograd.grad(F.embedding(ids, table, sparse=sparse), table, grad)
        return found.coalesce().values() if sparse else found

    return ours, torchs


CASES = [
    *((to_padded, rival) for rival in ("loop", "index", "nested")),
    *((from_padded, rival) for rival in ("loop", "index")),
    (concat, "loop"),
    *((segment_sum, rival) for rival in ("loop", "index", "segment_reduce")),
    (matmul, "loop"),
    (matmul_training, "loop"),
    *((embedding_training, rival) for rival in ("sparse", "dense")),
]


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize(("case", "rival"), CASES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_jagged_pack(benchmark, name, case, rival):
    ours, other = case(name, rival)
    torch.testing.assert_close(ours(), other(), rtol=1e-5, atol=1e-4)
    mine, theirs = in_turn(ours, other)
    mean, longest = LENGTHS[name]
    benchmark.extra_info.update(
        workload=f"{case.__name__}, 32 rows of mean {mean}, at most {longest}, D = {WIDTH}",
        level="all",
        ours_us=mine,
        rival_us=theirs,
        rival=rival,
    )
    benchmark.pedantic(ours, rounds=3)

"""What trie_step refuses, and that it is a well-behaved torch op."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from genrec_fast.ops._registry import twins
from genrec_fast.ops.trie_filter import trie_filter
from genrec_fast.ops.trie_step import TrieStep, trie_step

TRIE = build_trie(torch.tensor([[0, 1], [1, 0], [1, 2]]), codebook_sizes=(2, 3))
GOOD = {
    "level": 1,
    "logits": torch.zeros(2, 3, 3),
    "nodes": torch.zeros(2, 3, dtype=torch.int32),
    "scores": torch.zeros(2, 3),
    "num_beams": 2,
}


def nan_at(tensor: Tensor, *at: int, value: float = torch.nan) -> Tensor:
    tensor = tensor.clone()
    tensor[at] = value
    return tensor


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"level": 2}, r"trie_step: level must be in \[0, 2\), got 2"),
        ({"level": -1}, r"trie_step: level must be in \[0, 2\), got -1"),
        ({"level": 0}, r"trie_step: logits must be \[B, W, 2\] at level 0, got \[2, 3, 3\]"),
        ({"logits": torch.zeros(2, 3)}, r"trie_step: logits must be \[B, W, 3\] at level 1, got \[2, 3\]"),
        (
            {"nodes": torch.zeros(2, 2, dtype=torch.int32)},
            r"trie_step: nodes must be \[2, 3\] like logits, got \[2, 2\]",
        ),
        ({"scores": torch.zeros(3, 3)}, r"trie_step: scores must be \[2, 3\] like logits, got \[3, 3\]"),
        ({"num_beams": 0}, r"trie_step: num_beams must be at least 1, got 0"),
        ({"normalize": "none"}, r"trie_step: normalize must be 'all' or 'valid', got 'none'"),
        (
            {"nodes": torch.tensor([[0, 0, 0], [0, 2, 0]], dtype=torch.int32)},
            r"trie_step: nodes must be -1 or in \[0, 1\], got 2 for user 1, beam 1",
        ),
        (
            {"nodes": torch.tensor([[0, 0, -2], [0, 0, 0]], dtype=torch.int32)},
            r"trie_step: nodes must be -1 or in \[0, 1\], got -2 for user 0, beam 2",
        ),
        (
            {"logits": nan_at(GOOD["logits"], 1, 2, 0)},
            r"trie_step: logits must not be NaN or \+inf for user 1, beam 2",
        ),
        (
            {"logits": nan_at(GOOD["logits"], 0, 1, 2, value=torch.inf).bfloat16()},
            r"trie_step: logits must not be NaN or \+inf for user 0, beam 1",
        ),
        (
            {"scores": nan_at(GOOD["scores"], 1, 0)},
            r"trie_step: scores must not be NaN or \+inf, got nan for user 1, beam 0",
        ),
        (
            {"scores": nan_at(GOOD["scores"], 0, 2, value=torch.inf)},
            r"trie_step: scores must not be NaN or \+inf, got inf for user 0, beam 2",
        ),
        (
            {"allowed": torch.ones(3, 3, dtype=torch.bool)},
            r"trie_step: allowed and exclude must be for 2 users like logits, got 3",
        ),
        (
            {"exclude": Jagged.from_rows([[0]])},
            r"trie_step: allowed and exclude must be for 2 users like logits, got 1",
        ),
        (
            {
                "allowed": trie_filter(TRIE, allowed=torch.ones(3, dtype=torch.bool)),
                "exclude": Jagged.from_rows([[], []]),
            },
            r"trie_step: exclude must be part of the prepared filter, got both",
        ),
        (
            {"allowed": trie_filter(build_trie([[0, 0]]), allowed=torch.ones(1, dtype=torch.bool))},
            r"trie_step: allowed must be a filter of this trie, with 3 rows, got one of 1 rows",
        ),
        (
            {"allowed": dataclasses.replace(trie_filter(TRIE, allowed=torch.ones(3).bool()), num_rows=torch.ones(2))},
            r"trie_step: allowed must be a filter of this trie, with 3 rows, got one of .* rows",
        ),
    ],
)
def test_bad_values_are_named(isa, change, text):
    arguments = {**GOOD, **change}
    level = arguments.pop("level")
    with pytest.raises(InvalidValueError, match=text):
        trie_step(TRIE, level, **arguments)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"logits": torch.zeros(2, 3, 3).double()},
            r"logits must be float32, bfloat16 or float16, got float64 \[2, 3, 3\]",
        ),
        ({"nodes": torch.zeros(2, 3).long()}, r"trie_step: nodes must be int32 \[B, W\], got int64 \[2, 3\]"),
        ({"scores": torch.zeros(2, 3).half()}, r"trie_step: scores must be float32 \[B, W\], got float16 \[2, 3\]"),
    ],
)
def test_bad_types_are_named(change, text):
    arguments = {**GOOD, **change}
    level = arguments.pop("level")
    with pytest.raises(InvalidTypeError, match=text):
        trie_step(TRIE, level, **arguments)


@pytest.mark.parametrize("size", [16, 17, 40])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_bad_logit_is_found_wherever_it_stands(isa, size, value, dtype):
    trie = build_trie(torch.tensor([[0], [1]]), codebook_sizes=(size,))
    nodes = torch.zeros(1, 1, dtype=torch.int32)
    for at in range(size):
        logits = torch.zeros(1, 1, size, dtype=dtype)
        logits[0, 0, at] = value
        with pytest.raises(InvalidValueError, match="logits must not be NaN"):
            trie_step(trie, 0, logits, nodes, torch.zeros(1, 1), num_beams=1)


def test_the_twin_refuses_what_the_kernel_refuses():
    tensors = ([TRIE.tokens[1]], [TRIE.child_bases[1]], [TRIE.child_deltas[1]])
    for name, value, text in (
        ("logits", nan_at(GOOD["logits"], 1, 2, 0), "logits must not be NaN"),
        ("nodes", nan_at(GOOD["nodes"], 0, 1, value=2), "nodes must be -1 or in"),
        ("scores", nan_at(GOOD["scores"], 0, 1), "scores must not be NaN"),
    ):
        a = {**GOOD, name: value}
        with pytest.raises(InvalidValueError, match=text):
            twins["trie_step"](a["logits"], a["nodes"], a["scores"], *tensors, 2, False, None, None, None, None, None)


def test_is_a_torch_op():
    tensors = ([TRIE.tokens[1]], [TRIE.child_bases[1]], [TRIE.child_deltas[1]])
    arguments = (GOOD["logits"], GOOD["nodes"], GOOD["scores"], *tensors, 2, False, None, None, None, None, None)
    torch.library.opcheck(torch.ops.genrec_fast.trie_step.default, arguments)


def test_compiles_without_a_graph_break():
    def two_levels(first: Tensor, second: Tensor) -> TrieStep:
        start = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1)
        step = trie_step(TRIE, 0, first, *start, num_beams=3)
        return trie_step(TRIE, 1, second, step.nodes, step.scores, num_beams=3)

    logits = torch.randn(1, 1, 2), torch.randn(1, 3, 3)
    compiled = torch.compile(two_levels, fullgraph=True, backend="eager")
    for ours, theirs in zip(compiled(*logits), two_levels(*logits), strict=True):
        assert torch.equal(ours, theirs)


def test_level_must_be_a_number():
    trie = build_trie(torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(InvalidTypeError, match="trie_step: level must be an int, got 'first'"):
        trie_step(
            trie, "first", torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1), num_beams=1
        )

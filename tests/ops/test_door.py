"""The door of the ops: whatever comes in, an op gives its result or an error of the library, and reads nothing else.

Each op is called as it should be, then with one argument after the other replaced: by a tensor of another kind, by one
that is held in an odd way, by a number that no op can take.
"""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from calls import (
    BOOKS,
    CALLS,
    KEPT,
    NUMBERS,
    OFFSETS,
    OTHERS,
    TENSORS,
    attempt,
    call,
    equal,
    flat,
    freed,
    misaligned,
    negated,
    normal,
    strided,
)

import genrec_fast.ops as ops
from genrec_fast.base.errors import GenrecError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.ops._registry import core
from genrec_fast.ops.jagged_attention import jagged_attention


def test_every_op_is_here():
    functions = {name for name in ops.__all__ if name[0].islower()}
    assert functions - {"transformer_cross"} == set(CALLS)  # cross: as prefill


# ---- tensors of another kind


KINDS = {
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse() if t.dim() else t.to("meta"),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "complex": lambda t: t.to(torch.complex64).conj(),
    "list": lambda t: t.tolist(),
    "none": lambda t: object(),
    "freed": freed,
    "scalar": lambda t: torch.zeros((), dtype=t.dtype),
    "empty": lambda t: t[:0].clone(),
    "deep": lambda t: t[None, None, None],
    "float64": lambda t: t.double(),
    "bool": lambda t: t.bool(),
}


@pytest.mark.filterwarnings(
    "ignore:.*sparse.*", "ignore:.*quantize.*", "ignore:.*nested.*", "ignore:.*Casting complex.*"
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "key"), TENSORS)
def test_a_tensor_of_another_kind_gives_a_result_or_our_error(name, key, kind):
    _, error = attempt(call, name, **{key: KINDS[kind](CALLS[name][key])})
    assert error is not None or kind not in ("meta", "sparse", "nested", "quantized", "none", "freed")


@pytest.mark.parametrize(("name", "key"), TENSORS)
def test_a_tensor_under_vmap_gives_a_result_or_our_error(name, key):
    attempt(torch.func.vmap(lambda t: flat(call(name, **{key: t}))[0]), CALLS[name][key][None])


# ---- tensors held in another way mean the same


HELD = {"negated": negated, "misaligned": misaligned, "strided": strided}


@pytest.mark.parametrize("how", HELD)
@pytest.mark.parametrize(("name", "key"), TENSORS)
def test_how_a_tensor_is_held_changes_nothing(name, key, how):
    tensor = CALLS[name][key]
    if how == "negated" and tensor.dtype in (torch.bool, torch.uint8):
        pytest.skip("torch negates no such numbers")
    held = HELD[how](tensor)
    assert torch.equal(held, tensor)
    assert equal(call(name, **{key: held}), call(name))


def test_a_negated_tensor_inside_a_list_means_what_it_says():
    assert equal(call("rq_encode", codebooks=[negated(book) for book in BOOKS]), call("rq_encode"))
    assert equal(call("transformer_step", chain=[negated(KEPT)]), call("transformer_step"))
    tables = [negated(table) for table in CALLS["transformer_search"]["code_tokens"]]
    assert equal(call("transformer_search", code_tokens=tables), call("transformer_search"))


# ---- numbers

ODD = [True, 2**63, -(2**63) - 1, 2**70, 10**5000, -1, 0, sys.maxsize, 2**31, 1.5, float("nan"), 1e400, "1", None, [1]]
ODD += [torch.tensor([1, 2]), torch.tensor(True), torch.tensor(2, device="meta"), 1j, object()]


@pytest.mark.parametrize("place", range(len(ODD)))
@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_a_number_that_is_none_gives_a_result_or_our_error(name, key, place):
    value = ODD[place]
    _, error = attempt(call, name, **{key: value})
    assert error is not None or value is not True or key == "padding_value"
    assert error is None or len(str(error)) < 400


@pytest.mark.parametrize("value", [torch.tensor([1, 0]), 3, "yes", None, object(), [], float("nan"), 2**70])
@pytest.mark.parametrize(("name", "key"), OTHERS)
def test_anything_in_any_other_place_gives_a_result_or_our_error(name, key, value):
    attempt(call, name, **{key: value})


def test_sizes_that_no_memory_holds_are_refused_before_they_are_asked_for():
    with pytest.raises(InvalidValueError, match=r"to_padded: out must fit into memory \(2\^47 bytes\), got \[2, "):
        call("to_padded", max_len=2**62)
    with pytest.raises(InvalidValueError, match="topk_inner_product: ids must fit into memory"):
        call("topk_inner_product", k=2**62)
    with pytest.raises(UnsupportedError, match=r"topk_inner_product: ids .* GB, more than this machine has"):
        call("topk_inner_product", k=2**42)
    with pytest.raises(InvalidValueError, match="trie_step: num_beams must be at most 2147483647, got 2147483648"):
        call("trie_step", num_beams=2**31)
    q, bias = normal(5, 2, 4), ops.ALiBi(ops.ALiBi.slopes_for(2))
    with pytest.raises(InvalidValueError, match="jagged_attention: bias must fit into memory"):
        jagged_attention(q, q, q, OFFSETS, kind="softmax", max_seq_len=2**60, bias=bias)


def test_more_beams_than_codes_cost_no_memory():
    found = call("trie_step", num_beams=100_000)
    assert torch.equal(found.scores[:, :3], call("trie_step").scores)


# ---- limits as large as one likes


@pytest.mark.parametrize("kind", ["silu", "softmax"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", ["max_attn_len", "target_group_size", "min_full_attn_seq_len"])
def test_a_limit_beyond_every_row_is_no_limit(kind, causal, dtype, limit):
    q, offsets, targets = normal(14, 3, 4).to(dtype), torch.tensor([0, 6, 14]), torch.tensor([3, 3])
    near = {"max_attn_len": 2} if limit == "min_full_attn_seq_len" else {}

    def attended(value):
        given = {"kind": kind, "causal": causal, "num_targets": targets, "contextual_seq_len": 2, **near, limit: value}
        return jagged_attention(q, q, q, offsets, **given)

    for value in (2**31 - 1, 2**31, sys.maxsize, sys.maxsize + 1, 2**64):
        assert torch.equal(attended(value), attended(1000))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"thresholds": torch.tensor([0, 5])}, "thresholds of the bias must be above 0"),
        ({"thresholds": torch.tensor([-3, 5])}, "thresholds of the bias must be above 0"),
        ({"thresholds": torch.tensor([5, 2])}, "thresholds of the bias must be above 0, .* and not decrease"),
        ({"thresholds": torch.tensor([1, 2**62 + 1])}, "at most 2\\^62"),
        ({"timestamps": torch.tensor([0, 1, -(2**63), 3, 4])}, r"timestamps of the bias must be below 2\^62"),
        ({"timestamps": torch.tensor([0, 1, 2**62, 3, 4])}, r"timestamps of the bias must be below 2\^62"),
    ],
)
def test_float64_refuses_what_float32_refuses(change, text):
    given = {"pos_w": None, "ts_w": normal(4), "timestamps": torch.arange(5), "thresholds": torch.tensor([1, 2])}
    for dtype in (torch.float32, torch.float64):
        q = normal(5, 2, 4).to(dtype)
        with pytest.raises(InvalidValueError, match=text):
            jagged_attention(q, q, q, OFFSETS, kind="silu", bias=ops.RelativeTimeBias(**{**given, **change}))
        for context, targets in ((4, None), (1, torch.tensor([3, 0])), (0, torch.tensor([-1, 0]))):
            with pytest.raises(InvalidValueError, match="num_targets must be at least 0 and leave room"):
                jagged_attention(q, q, q, OFFSETS, kind="silu", contextual_seq_len=context, num_targets=targets)


# ---- names


@pytest.mark.parametrize(
    "name", ["transformer_first", "jagged_attention", "jagged_attention_check", "transformer_head"]
)
def test_a_binding_refuses_a_name_it_does_not_know_and_misses_one_it_needs(name):
    with pytest.raises(GenrecError, match=r"argument .* must be given, got none of that name"):
        getattr(core, name)(**({"out": 0, "log_sums": 0} if name == "jagged_attention" else {}))


def test_a_binding_names_what_is_misspelt():
    taken = {}

    class Spy:
        def __getattr__(self, name):
            def kernel(**given):
                taken[name] = given
                return getattr(core, name)(**given)

            return kernel

    reached = importlib.import_module("genrec_fast.ops.transformer")

    before = reached.core
    reached.core = Spy()
    try:
        call("transformer_first")
    finally:
        reached.core = before
    given = taken["transformer_first"]
    with pytest.raises(
        InvalidValueError, match="transformer_first: arguments must be those of the kernel, got one named"
    ):
        core.transformer_first(**given, num_row=3)
    with pytest.raises(InvalidValueError, match="argument stack must be given"):
        core.transformer_first(**{("stak" if k == "stack" else k): v for k, v in given.items()})
    with pytest.raises(InvalidTypeError, match="argument stack must be of its kernel's type, got str"):
        core.transformer_first(**{**given, "stack": "5"})

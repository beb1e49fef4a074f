"""Tries, filters, stacks and pickles that were altered after they had been checked: refused, or not read."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import struct

import pytest
import torch
from calls import CALLS, CODES, STACK, TRIE, attempt, call, equal, freed, misaligned, normal, packed_stack, strided

import genrec_fast.ops as ops
from genrec_fast.base.errors import CorruptFileError, GenrecError, InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import Trie, build_trie
from genrec_fast.ops.transformer_pack import PackedStack, unpack_stacks

SHAPES = {
    "meta": lambda t: t.to("meta"),
    "short": lambda t: t[:-1].clone(),
    "long": lambda t: torch.cat([t, t[-1:]]) if t.dtype != torch.uint16 else t[:-1].clone(),
    "none of it": lambda t: t[:0].clone(),
    "int64": lambda t: t.to(torch.int64),
    "float32": lambda t: t.to(torch.float32),
    "strided": strided,
    "freed": freed,
    "a list": lambda t: t.tolist(),
    "None": lambda t: None,
    "no tensor": lambda t: object(),
    "sparse": lambda t: t.to(torch.int64).to_sparse(),
}
LEVELS = ("tokens", "child_bases", "child_deltas")
LEAVES = ("leaf_bases", "leaf_deltas", "leaf_items")


def altered_tries(change):
    """Tries that stand as if they had been checked, with one tensor, or one tuple of them, changed."""
    for name in (*LEVELS, *LEAVES):
        for level in range(2) if name in LEVELS else (None,):
            trie = copy.copy(TRIE)
            value = getattr(trie, name)
            if level is not None:
                value = tuple(change(t) if i == level else t for i, t in enumerate(value))
            object.__setattr__(trie, name, change(value) if level is None else value)
            yield name, trie
    for name in LEVELS:
        for value in ((), getattr(TRIE, name)[:1], getattr(TRIE, name) * 5, None, 7):
            trie = copy.copy(TRIE)
            object.__setattr__(trie, name, value)
            yield name, trie


USES = {
    "step": lambda trie: call("trie_step", trie=trie),
    "filtered step": lambda trie: call("trie_step", trie=trie, exclude=Jagged.from_rows([[0], []])),
    "last step": lambda trie: call("trie_step", trie=trie, level=1),
    "lookup": lambda trie: ops.trie_lookup(trie, CODES),
    "filter": lambda trie: call("trie_filter", trie=trie),
    "search": lambda trie: call("transformer_search", trie=trie),
    "items": lambda trie: trie.items(torch.arange(4)),
    "valid_codes": lambda trie: trie.valid_codes(1, torch.arange(3)),
    "item_rows": lambda trie: trie.item_rows,
    "pickle": lambda trie: pickle.loads(pickle.dumps(trie)),
    "deepcopy": copy.deepcopy,
    "replace": dataclasses.replace,
}


@pytest.mark.filterwarnings("ignore:.*sparse.*")
@pytest.mark.parametrize("use", ["step", "filtered step", "last step", "lookup", "filter", "search"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_altered_trie_is_refused_or_not_read(use, shape):
    for name, trie in altered_tries(SHAPES[shape]):
        found, error = attempt(USES[use], trie)
        # Without an error, the part that was altered is none that this op reads.
        assert error is not None or equal(found, USES[use](TRIE)), name


@pytest.mark.parametrize("use", USES)
def test_contents_that_were_written_over_are_never_followed(use):
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        trie = copy.deepcopy(TRIE)
        for name, tensor in trie._named_tensors():
            if torch.rand((), generator=generator) < 0.5:
                high = {"tokens": 256, "child_deltas": 256, "leaf_deltas": 256}.get(name.partition(".")[0], 2**31)
                noise = torch.randint(-high, high, tensor.shape, generator=generator)
                tensor.copy_(noise.to(tensor.dtype))
        attempt(USES[use], trie)


@pytest.mark.parametrize("name", ["bits", "ranks", "excluded", "excluded_offsets", "leaf_items"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "sparse"])
def test_an_altered_filter_is_refused(name, shape):
    made = call("trie_filter")
    wrong = dataclasses.replace(made, **{name: SHAPES[shape](getattr(made, name))})
    for use in (lambda keep: call("trie_step", allowed=keep), lambda keep: call("transformer_search", keep=keep)):
        found, error = attempt(use, wrong)
        assert error is not None or equal(found, use(made)), (name, shape)


def test_a_filter_whose_lists_run_out_of_their_tensor_is_refused():
    made = call("trie_filter")
    for offsets in ([0, 1, 2**40], [0, -5, 1], [5, 1, 1], [0, 2, 1]):
        wrong = dataclasses.replace(made, excluded_offsets=torch.tensor(offsets))
        with pytest.raises(InvalidValueError, match="exclude must have offsets that do not decrease up to"):
            call("trie_step", allowed=wrong)
        with pytest.raises(InvalidValueError, match="exclude must have offsets that do not decrease up to"):
            call("transformer_search", keep=wrong)


@pytest.mark.parametrize(
    "changes", [{"num_heads": 1, "num_kv_heads": 1}, {"width": 20}, {"num_layers": 1}, {"head_size": 40}]
)
@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("transformer_")])
def test_a_stack_with_the_spec_of_another_is_refused_or_read_as_it_is(name, changes):
    wrong = STACK._replace(spec=packed_stack(**changes).spec)
    arguments = {
        key: normal(*value.shape[:-1], wrong.spec.width)
        for key, value in CALLS[name].items()
        if key in ("rows", "hidden", "embedding") and wrong.spec.width != STACK.spec.width
    }
    found, error = attempt(call, name, stack=wrong, **arguments)
    assert error is not None or equal(found, call(name))


BLOCKS = {
    "other dtype": lambda w: w.to(torch.int16),
    "short": lambda w: w[:-1],
    "strided": strided,
    "meta": lambda w: w.to("meta"),
    "not aligned": misaligned,
    "empty": lambda w: w[:0],
    "noise": lambda w: torch.randint(0, 256, w.shape, dtype=torch.uint8),
    "None": lambda w: None,
}


@pytest.mark.parametrize("how", BLOCKS)
@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("transformer_")])
def test_a_stack_with_another_block_is_refused(name, how):
    with pytest.raises(GenrecError, match=name):
        call(name, stack=STACK._replace(weights=BLOCKS[how](STACK.weights)))
    for number in (-1, 1, 64, True, "0", 2**70):
        with pytest.raises(GenrecError, match=f"{name}: stack must be"):
            call(name, stack=STACK._replace(number=number))
    with pytest.raises(InvalidTypeError, match="stack must be a PackedStack"):
        call(name, stack=tuple(STACK))
    with pytest.raises(InvalidTypeError, match="stack must be a PackedStack"):
        call(name, stack=PackedStack(STACK.weights, 0, {"width": 12}))


def test_a_block_of_other_words_is_a_corrupt_one():
    for place in range(2, 40):
        for value in (-1, 2**62, 3, struct.unpack("<q", struct.pack("<d", 1e300))[0]):
            block = STACK.weights.clone()
            block[: 8 * 60].view(torch.int64)[place] = value
            stacks, _ = attempt(unpack_stacks, block)
            if stacks:
                attempt(ops.transformer_first, stacks[0][0], normal(3, 12))
    with pytest.raises(InvalidValueError, match="must lie at a multiple of 8 bytes"):
        unpack_stacks(misaligned(STACK.weights))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_layers": 4096}, "num_layers must be at most 4095, got 4096"),
        ({"num_heads": 2**20, "num_kv_heads": 1, "head_width": 2**20}, r"num_heads \* head_width must be below"),
        ({"num_heads": True}, "num_heads must be an int, got True"),
        ({"causal": 1}, "causal must be a bool, got 1"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number, got nan"),
        ({"window": 2**70}, "window must be at most 2147483647"),
        ({"activation": ["relu"]}, "activation must be 'relu', 'gelu', 'gelu_tanh' or 'silu', got \\['relu'\\]"),
    ],
)
def test_a_spec_has_limits(changes, text):
    with pytest.raises(GenrecError, match=f"TransformerSpec: {text}"):
        packed_stack(**changes)


# ---- pickles


@pytest.mark.parametrize("shape", [s for s in SHAPES if s not in ("sparse", "freed", "strided", "no tensor", "meta")])
def test_an_altered_pickle_is_a_corrupt_one(shape):
    for name in (*LEVELS, *LEAVES):
        state = TRIE.__getstate__()
        value = state[name]
        state[name] = (SHAPES[shape](value[0]), *value[1:]) if name in LEVELS else SHAPES[shape](value)
        with pytest.raises(CorruptFileError, match="a pickle or copy must hold a whole trie, got"):
            object.__new__(Trie).__setstate__(state)


def test_a_pickle_with_other_fields_or_contents_is_a_corrupt_one():
    for change in (
        {"num_items": 6},
        {"num_items": "5"},
        {"codebook_sizes": (2, 4)},
        {"codebook_sizes": 3},
        {"more": 1},
    ):
        with pytest.raises(CorruptFileError):
            object.__new__(Trie).__setstate__({**TRIE.__getstate__(), **change})
    state = TRIE.__getstate__()
    del state["leaf_items"]
    for wrong in (state, None, [], 3):
        with pytest.raises(CorruptFileError, match="fields must be"):
            object.__new__(Trie).__setstate__(wrong)
    altered = copy.deepcopy(TRIE)
    altered.tokens[1][0] = 200
    for again in (copy.copy, copy.deepcopy, lambda trie: pickle.loads(pickle.dumps(trie))):
        with pytest.raises(CorruptFileError, match="tokens of level 1 must"):
            again(altered)
    assert copy.deepcopy(TRIE.to("meta")).device.type == "meta"


@pytest.mark.parametrize("offsets", [None, torch.zeros(0, dtype=torch.int64), 3, torch.tensor([0.0, 2.0, 5.0])])
@pytest.mark.parametrize("name", ["transformer_prefill", "transformer_step", "transformer_search"])
def test_offsets_are_always_needed(name, offsets):
    with pytest.raises(GenrecError, match=f"{name}: "):
        call(name, offsets=offsets)


def test_a_search_names_what_is_missing():
    with pytest.raises(InvalidTypeError, match="cache must be a tensor, got NoneType"):
        call("transformer_search", cache=None)
    with pytest.raises(InvalidTypeError, match=r"chain\[0\] must be a tensor, got NoneType"):
        call("transformer_search", chain=[None])


@pytest.mark.parametrize("name", ["tokens", "child_bases", "child_deltas", "num_items", "codebook_sizes", "leaf_items"])
@pytest.mark.parametrize("value", [{0: 1, 1: 2}, {1, 2}, 2.5, "ab", None, [[1], [2]]])
def test_a_field_of_a_trie_that_is_something_else_is_refused(name, value):
    trie = copy.copy(TRIE)
    object.__setattr__(trie, name, value)
    for use in ("filtered step", "filter", "lookup", "search"):
        found, error = attempt(USES[use], trie)
        assert error is not None or equal(found, USES[use](TRIE))


@pytest.mark.parametrize("field", ["num_heads", "num_kv_heads", "head_size", "width", "num_layers"])
@pytest.mark.parametrize("value", [False, None, "2", [2], 2.0])
def test_a_spec_written_over_is_refused(field, value):
    wrong = dataclasses.replace(STACK.spec)
    object.__setattr__(wrong, field, value)
    for name in CALLS:
        if name.startswith("transformer_"):
            with pytest.raises(InvalidTypeError, match=f"{name}: {field} of the stack's spec must be an int, got"):
                call(name, stack=STACK._replace(spec=wrong))


def test_a_call_for_no_users_is_a_valid_one():
    nobody = {"logits": normal(0, 1, 4), "nodes": torch.zeros(0, 1, dtype=torch.int32), "scores": torch.zeros(0, 1)}
    found = call("trie_step", **nobody, log_sums=None, allowed=torch.ones(0, 5, dtype=torch.bool))
    assert found.scores.shape == (0, 3)
    stack = packed_stack(cross_width=6)
    none = torch.zeros(1, dtype=torch.int64)
    cross = ops.transformer_cross(stack, normal(0, 6), none)
    hidden, cache = ops.transformer_prefill(stack, normal(0, 12), none, cross=cross, cross_offsets=none)
    assert (hidden.shape, cache.numel()) == ((0, 12), 0)


def test_the_items_of_a_trie_may_have_any_stride_where_there_is_one():
    row = torch.tensor([3, 1, 2]).as_strided((1, 3), (2**62, 1))
    assert build_trie(row).lookup(torch.tensor([[3, 1, 2]])).tolist() == [0]


def test_an_empty_first_table_holds_no_token():
    rows = CALLS["transformer_first"]["rows"]
    table, tokens = ops.transformer_first(STACK, rows[:0]), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InvalidValueError, match="first_table must hold the rows of the tokens"):
        call("transformer_prefill", first_table=table, tokens=tokens)

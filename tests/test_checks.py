"""Every config of the package: a wrong kind, a wrong number or an unknown choice is an error when it is made."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Literal

import numpy as np
import pytest
import torch

from genrec_fast import backbones, decoders, layouts, objectives, tokenizers
from genrec_fast.backbones import CausalConfig, HSTUConfig, T5Config, TimelineConfig
from genrec_fast.checks import check_dense, check_flag, check_integers, check_number, whole_number
from genrec_fast.config import check_fields
from genrec_fast.errors import GenrecError, InvalidTypeError, InvalidValueError
from genrec_fast.objectives import MultiTaskConfig, NextCodeConfig
from genrec_fast.recipe import BatchingConfig, TrainConfig
from genrec_fast.tokenizers import FSQConfig, PublishedConfig, RandomConfig, RQVAEConfig

FAMILIES = (backbones, decoders, layouts, objectives, tokenizers)
CONFIGS = [
    kind
    for family in FAMILIES
    for name, kind in inspect.getmembers(family, inspect.isclass)
    if name.endswith("Config") and name in family.__all__
] + [BatchingConfig, TrainConfig]
NEEDED = {PublishedConfig: {"path": "ids.json"}}
FIELDS = [(kind, field) for kind in CONFIGS for field in dataclasses.fields(kind)]
# Not numbers, or numbers that are no setting of anything; an int of thousands of digits cannot even be written out.
NONSENSE = ("no such choice", -1, -0.5, math.nan, math.inf, -math.inf, 10**400, 10**5000, 1j, object(), {}, b"x")
TENSORS = (torch.ones(()), torch.ones(2))


def test_every_family_is_here():
    assert len(CONFIGS) > 35
    assert {"T5Config", "BeamConfig", "PlainConfig", "InBatchConfig", "RQVAEConfig", "DiversityConfig"} <= {
        kind.__name__ for kind in CONFIGS
    }


@pytest.mark.parametrize(
    ("kind", "field"), FIELDS, ids=lambda value: getattr(value, "__name__", getattr(value, "name", ""))
)
def test_nonsense_is_refused_by_the_name_of_its_field(kind, field):
    """Whatever a field is, it takes no NaN, infinity, negative number, bool for a number or number for a bool."""
    default = NEEDED.get(kind, {}).get(field.name, field.default)
    if default is dataclasses.MISSING:
        default = field.default_factory()
    values = [*NONSENSE, *TENSORS]
    values += [0, 1] if isinstance(default, bool) else [True, False] if "int" in str(field.type) else []
    if "str" in str(field.type):  # a path, an action's rule
        values.remove("no such choice")
    if field.name == "seed":  # any 64 bits
        values.remove(-1)
    values += [(value,) for value in values] if isinstance(default, tuple) else []
    for value in values:
        settings = NEEDED.get(kind, {}) | {field.name: value}
        with pytest.raises(
            (InvalidTypeError, InvalidValueError), match=f"^{kind.__name__}: {field.name} must "
        ) as error:
            kind(**settings)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_what_it_is_made_of_makes_it_again(kind):
    config = kind(**NEEDED.get(kind, {}))
    assert kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}) == config


@pytest.mark.parametrize("config", [CausalConfig, TimelineConfig, T5Config])
@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("width", 0, "at least 1"),
        ("width", -8, "at least 1"),
        ("num_heads", 0, "at least 1"),
        ("hidden", 0, "at least 1"),
        ("max_items", 0, "at least 1"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("dropout", float("nan"), r"in \[0, 1\)"),
    ],
)
def test_a_network_of_no_size_is_named(config, name, value, rule):
    with pytest.raises(InvalidValueError, match=f"{config.__name__}: {name} must be {rule}, got {value}"):
        config(**{name: value})


def test_a_count_that_may_be_zero():
    assert T5Config(num_user_tokens=0).num_user_tokens == 0
    with pytest.raises(InvalidValueError, match="T5Config: num_user_tokens must be at least 0, got -1"):
        T5Config(num_user_tokens=-1)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: NextCodeConfig(label_smoothing=2.0), InvalidValueError, "label_smoothing must be in [0, 1), got 2.0"),
        (lambda: NextCodeConfig(valid_only=1), InvalidTypeError, "valid_only must be a bool, got 1"),
        (lambda: NextCodeConfig(level_weights=(1, "x")), InvalidTypeError, "level_weights must be a tuple of number"),
        (lambda: NextCodeConfig(level_weights=(0.0, 0.0)), InvalidValueError, "level_weights must be finite, at least"),
        (lambda: MultiTaskConfig(actions="rating>=4"), InvalidTypeError, "actions must be a tuple of str, got 'rating"),
        (
            lambda: MultiTaskConfig(actions=("like",), weights=(1.0, 2.0)),
            InvalidValueError,
            "weights must give 1 actions, got 2",
        ),
        (lambda: CausalConfig(width=128.0), InvalidTypeError, "width must be an int, got 128.0"),
        (lambda: CausalConfig(width=True), InvalidTypeError, "width must be an int, got True"),
        (lambda: CausalConfig(width=10**10), InvalidValueError, "width must be at most 2147483647, got 10000000000"),
        (lambda: CausalConfig(width=10, num_heads=3), InvalidValueError, "num_heads must divide width = 10, got 3"),
        (lambda: HSTUConfig(alpha=0.0), InvalidValueError, "alpha must be above 0 and finite, got 0.0"),
        (lambda: HSTUConfig(bias="all"), InvalidValueError, "bias must be 'none', 'position', 'time' or 'both', got"),
        (lambda: HSTUConfig(norm=3), InvalidTypeError, "norm must be a str, got 3"),
        (lambda: RandomConfig(codebook_sizes=(True, 4)), InvalidTypeError, "codebook_sizes must be a tuple of int"),
        (lambda: RandomConfig(codebook_sizes=()), InvalidValueError, "codebook_sizes must be in [1, 65536], one per"),
        (lambda: FSQConfig(steps=((8, 1),)), InvalidValueError, "steps must be integers of at least 2, got 1"),
        (lambda: FSQConfig(steps=((8, 5), ())), InvalidValueError, "steps must be tuples of integers, one per level"),
        (lambda: RQVAEConfig(temperatures=(1.0,)), InvalidValueError, "temperatures must be a tuple of 2 numbers, got"),
        (lambda: TrainConfig(bf16="yes"), InvalidTypeError, "bf16 must be a bool or None, got 'yes'"),
        (
            lambda: TrainConfig(max_minutes=math.inf),
            InvalidValueError,
            "max_minutes must be at least 0 and finite, got",
        ),
        (lambda: TrainConfig(schedule="steps"), InvalidValueError, "schedule must be 'cosine', 'linear', 'inverse_sqr"),
        (lambda: TrainConfig(learning_rate=10**5000), InvalidValueError, "learning_rate must be above 0 and finite, g"),
        (lambda: BatchingConfig(targets="first"), InvalidValueError, "targets must be 'every' or 'last', got 'first'"),
    ],
)
def test_the_message_says_the_rule_and_the_value(make, kind, text):
    with pytest.raises(kind, match="Config: " + re.escape(text)):
        make()


def test_a_list_becomes_a_tuple():
    """So that a config can be hashed, and equals what is read from its JSON."""
    assert RandomConfig(codebook_sizes=[4, 3]) == RandomConfig(codebook_sizes=(4, 3))
    assert FSQConfig(steps=[[4, 3], [5]]) == FSQConfig(steps=((4, 3), (5,)))
    assert hash(NextCodeConfig(level_weights=[1.0, 2.0])) == hash(NextCodeConfig(level_weights=(1.0, 2.0)))


def test_an_int_will_do_for_a_float():
    assert TrainConfig(learning_rate=1, max_minutes=3).learning_rate == 1


def test_fields_of_kinds_it_does_not_know_are_left_alone():
    @dataclasses.dataclass(frozen=True)
    class Mine:
        how: Literal["a"] | None = None
        other: torch.dtype = torch.float32
        free: float = -1.0

    check_fields(Mine(), free=("free",))
    with pytest.raises(InvalidValueError, match="Mine: how must be None or 'a', got 'b'"):
        check_fields(Mine(how="b"), free=("free",))


def test_a_number_alone():
    check_number("op", "x", -2.5)
    for value, rule in ((math.nan, "finite"), (math.inf, "finite")):
        with pytest.raises(InvalidValueError, match=f"op: x must be {rule}, got {value}"):
            check_number("op", "x", value)
    with pytest.raises(InvalidTypeError, match="op: x must be a number, got True"):
        check_number("op", "x", True)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([1], "list"),
        (torch.ones(2), "torch.float32"),
        (torch.ones(2, dtype=torch.bool), "torch.bool"),
        (torch.ones(2, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(2, dtype=torch.uint16), "torch.uint16"),
        (torch.ones(2, dtype=torch.int64).to_sparse(), "torch.sparse_coo on cpu"),
        (torch.ones(2, dtype=torch.int64, device="meta"), "torch.strided on meta"),
        (torch.nested.nested_tensor([torch.ones(2, dtype=torch.int64)], layout=torch.jagged), "a nested tensor"),
    ],
)
def test_integers_are_integers(value, got):
    with pytest.raises(InvalidTypeError, match=re.escape(got)) as error:
        check_integers("op", "codes", value, "[m, t]")
    assert isinstance(error.value, GenrecError)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        assert check_integers("op", "codes", torch.ones(2, dtype=dtype), "[m, t]").dtype == dtype


def test_integers_are_held_as_they_are_meant():
    """torch indexes with the bits that a tensor holds, and these are the opposites."""
    negative = torch._neg_view(torch.tensor([-1, -2, -3]))
    assert negative.is_neg()
    found = check_integers("op", "codes", negative, "[m]")
    assert (found.is_neg(), found.tolist()) == (False, [1, 2, 3])


@pytest.mark.parametrize(
    "value",
    [None, "5", 2.5, True, 1j, [5], math.nan, torch.tensor(True), torch.tensor([1, 2]), np.bool_(True)],
    ids=repr,
)
def test_a_count_is_a_whole_number(value):
    with pytest.raises(InvalidTypeError, match=r"^op: k must be an int, got "):
        whole_number("op", "k", value)


def test_a_count_has_limits():
    for value in (5, np.int64(5), torch.tensor(5)):
        found = whole_number("op", "k", value)
        assert (found, type(found)) == (5, int)
    with pytest.raises(InvalidValueError, match="op: k must be at least 1, got 0"):
        whole_number("op", "k", 0)
    with pytest.raises(InvalidValueError, match="op: k must be at most 2147483647, got 9223372036854775808"):
        whole_number("op", "k", 1 << 63)


def test_a_tensor_has_data():
    gone = torch.ones(3)
    gone.untyped_storage().resize_(0)
    for value, got in ((gone, "one whose storage was taken away"), (torch.ones(2).to_sparse(), "torch.sparse_coo")):
        with pytest.raises(InvalidTypeError, match=f"op: x must be a dense tensor with data, got {got}"):
            check_dense("op", "x", value)
    with pytest.raises(InvalidTypeError, match="op: x must be a tensor, got list"):
        check_dense("op", "x", [1.0])
    with pytest.raises(InvalidTypeError, match="op: exact must be a bool, got 1"):
        check_flag("op", "exact", 1)


@pytest.mark.parametrize("weights", [(1e39, 1.0), (5e-324,), (10**40,)])
def test_weights_are_floats_of_32_bits(weights):
    with pytest.raises(
        InvalidValueError, match="NextCodeConfig: level_weights must have a sum from 1e-30 to 1e30, got"
    ):
        NextCodeConfig(level_weights=weights)

"""Every config of the package: a wrong kind, a wrong number or an unknown choice is an error when it is made."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from typing import Literal

import pytest
import torch

from genrec_fast import backbones, decoders, layouts, objectives, tokenizers
from genrec_fast.backbones import CausalConfig, DualFlowConfig, HSTUConfig, T5Config, TimelineConfig
from genrec_fast.base.config import check_fields, from_json, to_json
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.decoders import BeamConfig, BlendConfig, MemberConfig
from genrec_fast.objectives import BehaviourCodesConfig, MultiTaskConfig, NextCodeConfig
from genrec_fast.recipe.recipe import BatchingConfig, TrainConfig
from genrec_fast.tokenizers import FSQConfig, PublishedConfig, RandomConfig, RQVAEConfig

FAMILIES = (backbones, decoders, layouts, objectives, tokenizers)
CONFIGS = [
    kind
    for family in FAMILIES
    for name, kind in inspect.getmembers(family, inspect.isclass)
    if name.endswith("Config") and name in family.__all__
] + [BatchingConfig, TrainConfig]
NEEDED = {
    BehaviourCodesConfig: {"actions": ("seen", "bought")},
    DualFlowConfig: {"num_actions": 2},
    PublishedConfig: {"path": "ids.json"},
    BlendConfig: {"decoder": BeamConfig()},
    MemberConfig: {"backbone": CausalConfig(), "decoder": BeamConfig()},
}
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OuterConfig:
    parts: tuple[object, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ((1, 2),)
    one: object = None


def test_settings_inside_settings_come_back():
    config = OuterConfig(parts=(RandomConfig(codebook_sizes=(5,)), RandomConfig()), one=RandomConfig(dedup="none"))
    text = json.dumps(to_json(config, full_names=True))
    assert '"kind": "RandomConfig"' in text
    assert from_json(OuterConfig, json.loads(text), "here") == config


def test_settings_of_unknown_types_are_refused():
    with pytest.raises(InvalidTypeError, match=r"save: one must be of a registered config type, got Outer"):
        to_json(OuterConfig(one=OuterConfig()), "save")
    with pytest.raises(CorruptFileError, match=r"here: one: kind must be a registered config type, got 'Tokenizer'"):
        from_json(OuterConfig, {"one": {"kind": "Tokenizer"}}, "here", defaults=True)
    with pytest.raises(CorruptFileError, match=r"here: OuterConfig has unknown key 'more'"):
        from_json(OuterConfig, {"more": 1}, "here", defaults=True)
    with pytest.raises(CorruptFileError, match=r"here: OuterConfig has no key 'one'"):
        from_json(OuterConfig, {"parts": [], "sizes": []}, "here")

from __future__ import annotations

import pytest

from genrec_fast.backbones.causal import CausalConfig
from genrec_fast.backbones.t5 import T5Config
from genrec_fast.backbones.timeline import TimelineConfig
from genrec_fast.errors import InvalidValueError


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

"""The objectives of mbgen, ccfrec and h2rec show what every objective must; their formulas: tests/backbones."""

from __future__ import annotations

import pytest

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.objectives import BehaviourCodesConfig, DualAlignmentConfig, MaskedFusionConfig
from shared.objective_suite import ObjectiveSuite


class TestBehaviourCodes(ObjectiveSuite):
    recipe = "mbgen"
    objective = BehaviourCodesConfig(actions=("rating>=4", "rating>=5"))


class TestMaskedFusion(ObjectiveSuite):
    recipe = "ccfrec"
    objective = MaskedFusionConfig(num_negatives=20)
    draws = True  # what is hidden, and the negatives


class TestDualAlignment(ObjectiveSuite):
    recipe = "h2rec"
    objective = DualAlignmentConfig()
    draws = True  # the gate's dropout


def test_temperatures_must_be_above_0():
    with pytest.raises(InvalidValueError, match=r"^DualAlignmentConfig: id_temperature must be above 0"):
        DualAlignmentConfig(id_temperature=0.0)

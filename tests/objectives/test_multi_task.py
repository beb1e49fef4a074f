from __future__ import annotations

import math

import pytest
import torch

from genrec_fast.base.batch import Batch, Tokens
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import MultiTaskConfig
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class Heads:
    """Logits that are parameters."""

    def __init__(self, logits):
        self.logits = torch.tensor(logits, requires_grad=True)

    @property
    def num_actions(self):
        return self.logits.shape[1]

    def action_logits(self, batch):
        return self.logits


def asked(labels):
    none = torch.zeros(0, dtype=torch.int64)
    offsets = torch.tensor([0, len(labels)])
    labels = None if labels is None else torch.tensor(labels, dtype=torch.bool)
    tokens = Tokens(offsets, none, torch.arange(int(offsets[1])), none, none, torch.zeros(1).long(), labels=labels)
    return Batch(Jagged(torch.zeros(int(offsets[1])).long(), offsets), tokens=tokens)


LOGITS, LABELS = [[0.5, -2.0], [3.0, 0.0], [-1.0, 4.0]], [[True, False], [False, True], [True, True]]


@pytest.mark.parametrize("weights", [(), (1.0, 3.0), (0.0, 1.0)])
@pytest.mark.parametrize("positive", [(), (2.0, 0.5)])
def test_equals_the_plain_formula(weights, positive):
    heads = Heads(LOGITS)
    loss = MultiTaskConfig(weights=weights, positive_weights=positive).build()(system_of(heads), asked(LABELS))
    share = [0.0, 0.0]
    grad = torch.zeros(3, 2)
    w, p = weights or (1.0, 1.0), positive or (1.0, 1.0)
    for row in range(3):
        for action in range(2):
            chance = 1 / (1 + math.exp(-LOGITS[row][action]))
            scale = w[action] / sum(w) / 3
            if LABELS[row][action]:
                share[action] -= p[action] * math.log(chance) / 3
                grad[row, action] = -p[action] * (1 - chance) * scale
            else:
                share[action] -= math.log(1 - chance) / 3
                grad[row, action] = chance * scale
    wanted = sum(s * x for s, x in zip(share, w, strict=True)) / sum(w)
    assert float(loss.value.detach()) == pytest.approx(wanted, rel=1e-5)
    assert loss.count == 3
    loss.value.backward()
    torch.testing.assert_close(heads.logits.grad, grad)
    if not positive:
        assert list(loss.figures.values()) == pytest.approx(share, rel=1e-5)


def test_messages_name_argument_rule_and_value():
    build = MultiTaskConfig().build()
    with pytest.raises(InvalidValueError, match="MultiTask: batch must have labels of asked events, got none"):
        build(system_of(Heads(LOGITS)), Batch(Jagged.from_rows([[1]])))
    with pytest.raises(InvalidValueError, match=r"labels must be \[3, 2\] as the backbone's logits, got \[3, 1\]"):
        build(system_of(Heads(LOGITS)), asked([[True]] * 3))
    with pytest.raises(InvalidValueError, match="weights must give 2 actions, got 1"):
        MultiTaskConfig(weights=(1.0,)).build()(system_of(Heads(LOGITS)), asked(LABELS))
    for weights in ((0.0, 0.0), (-1.0, 2.0), (math.nan, 1.0), (math.inf, 1.0)):
        with pytest.raises(InvalidValueError, match="weights must be finite, at least 0 and not all 0"):
            MultiTaskConfig(weights=weights).build()


class TestMultiTask(ObjectiveSuite):
    recipe, objective = "hstu_ranking", MultiTaskConfig(actions=("rating>=4", "rating>=5"))

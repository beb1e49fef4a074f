from __future__ import annotations

import pytest
import torch
from torch import nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import CoherentMaskingConfig
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class Slots(nn.Module):
    """3 levels of 2 codes with given probabilities of code 0, for two targets; remembers how it was asked."""

    codebook_sizes = (2, 2, 2)

    def __init__(self):
        super().__init__()
        first = torch.tensor([[0.6, 0.1, 0.7], [0.5, 0.5, 0.45]])
        self.probabilities, self.asked = torch.stack([first, 1 - first], 2), []

    def read(self, batch):
        return None

    read_targets = read

    def code_logprobs(self, histories, written):
        self.asked.append((written, self.training))
        every = self.probabilities.log().unsqueeze(1).expand(-1, written.shape[1], -1, -1)
        return list(every.unbind(2))


BATCH = Batch(Jagged.from_rows([[0], [0]]), torch.tensor([1, 1]), target_codes=torch.tensor([[0, 1, 1], [1, 0, 1]]))


def test_views_mask_the_least_confident_first():
    """Confidences .6, .9, .7 and .5, .5, .55: the order is levels 0, 2, 1 and 0, 1, 2."""
    backbone = Slots().train()
    views = CoherentMaskingConfig().build().prepare(system_of(backbone), BATCH).views
    assert views.tolist() == [
        [[-1, 1, 1], [-1, 1, -1], [-1, -1, -1]],
        [[-1, 0, 1], [-1, -1, 1], [-1, -1, -1]],
    ]
    ((written, training),) = backbone.asked
    assert written.tolist() == [[[-1] * 3]] * 2
    assert not training
    assert backbone.training


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_masked_codes_of_all_views(smoothing):
    objective, system = CoherentMaskingConfig(label_smoothing=smoothing).build(), system_of(Slots())
    loss = objective(system, objective.prepare(system, BATCH))
    total, count = 0.0, 0
    for target, (codes, times) in enumerate([((0, 1, 1), (3, 1, 2)), ((1, 0, 1), (3, 2, 1))]):
        for level, (code, masked) in enumerate(zip(codes, times, strict=True)):
            logits = system.backbone.probabilities[target, level].log()
            one = nn.functional.cross_entropy(logits, torch.tensor(code), label_smoothing=smoothing)
            total, count = total + masked * float(one), count + masked
    assert float(loss.value) == pytest.approx(total / count)
    assert loss.count == 2
    assert float(objective(system, BATCH).value) == pytest.approx(total / count)  # prepared by itself


def test_bad_settings():
    with pytest.raises(InvalidValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        CoherentMaskingConfig(label_smoothing=1.0)


class TestCoherentMasking(ObjectiveSuite):
    recipe, objective = "diffgrm", CoherentMaskingConfig()

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import UniformMaskingConfig
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class Slots:
    """2 levels of 3 codes; code 1 has the log-probability of a table: by level and by what is masked."""

    codebook_sizes = (3, 3)

    def __init__(self, table):
        self.table = torch.tensor(table)  # [2, 2]: alone, and with the other

    def read(self, batch):
        return None

    read_targets = read

    def code_logprobs(self, histories, written):
        both = (written == -1).all(2).long()
        return [self.table[level][both].unsqueeze(2).expand(-1, -1, 3) for level in range(2)]


class Rows(Slots):
    def row_logprobs(self, codes, at):
        hidden = codes.values == -1
        both = hidden.all(1).long()
        each = torch.stack([self.table[level][both] for level in range(2)], 1)
        return each[at].unsqueeze(1).expand(-1, 6)


TABLE = [[-1.0, -3.0], [-0.5, -7.0]]
ITEMS = 40_000


def batch(items_before=1):
    count = ITEMS * items_before
    items = Jagged(torch.zeros(count, dtype=torch.int64), torch.arange(ITEMS + 1) * items_before)
    targets = torch.full((count,), -1)
    targets[items_before - 1 :: items_before] = 0
    codes = torch.ones(ITEMS, 2, dtype=torch.int64)
    return Batch(items, targets, codes=codes.repeat(items_before, 1), target_codes=codes)


def test_the_mean_over_draws_is_the_closed_sum():
    """n = 1 or 2 of 2 codes: each code's cross-entropy over n / 2, over 2 codes."""
    torch.manual_seed(0)
    loss = UniformMaskingConfig(history_weight=0.0).build()(system_of(Slots(TABLE)), batch())
    alone = (1.0 + 0.5) / 2 / 0.5 / 2  # one of the two at random
    both = (3.0 + 7.0) / 1.0 / 2
    assert float(loss.value) == pytest.approx((alone + both) / 2, rel=0.01)
    assert (loss.count, loss.figures) == (ITEMS, {})


def test_rows_are_weighted_by_the_share_that_is_masked():
    """Of each of 3 items n = 0, 1 or 2 codes: at a half each code alone is masked in a quarter, both in another."""
    torch.manual_seed(0)
    loss = UniformMaskingConfig(history_weight=2.0).build()(system_of(Rows(TABLE)), batch(2))
    half = ((1.0 + 0.5) / 4 + (3.0 + 7.0) / 4) / 0.5
    row = (0.0 + half + (3.0 + 7.0)) / 3 / 2
    assert loss.figures["loss_rows"] == pytest.approx(row, rel=0.01)
    assert float(loss.value) == pytest.approx(loss.figures["loss_target"] + 2 * loss.figures["loss_rows"])


def test_bad_settings_and_backbones():
    with pytest.raises(InvalidValueError, match="history_weight must be at least 0"):
        UniformMaskingConfig(history_weight=-1.0)
    with pytest.raises(InvalidValueError, match="history_weight must be 0 for Slots, which masks no code of a history"):
        UniformMaskingConfig().build()(system_of(Slots(TABLE)), batch())


class TestUniformMasking(ObjectiveSuite):
    recipe, objective, draws = "llada_rec", UniformMaskingConfig(), True


class TestTargetsAlone(ObjectiveSuite):
    recipe, objective, draws = "llada_rec", UniformMaskingConfig(history_weight=0.0), True

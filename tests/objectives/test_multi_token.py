from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import MultiTokenConfig
from genrec_fast.objectives.multi_token import window_of
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite

BATCH = Batch(Jagged.from_rows([[0, 1, 2, 3], [], [5, 6]]), torch.tensor([-1, 2, 3, 4, 6, 7]))


class Tokens:
    num_tokens = 3

    def __init__(self, count=5, items=9, dim=4):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randn(count, 3, dim, generator=generator, dtype=torch.float64).requires_grad_()
        self.table = torch.randn(items, dim, generator=generator, dtype=torch.float64).requires_grad_()

    def embed_tokens(self, batch):
        return self.tokens

    def item_table(self):
        return self.table


def test_the_window_ends_with_the_row():
    places, tokens, items = window_of(BATCH, 3)
    found = list(zip(places.tolist(), tokens.tolist(), items.tolist(), strict=True))
    assert found == [
        (0, 0, 2),
        (0, 1, 3),
        (0, 2, 4),
        (1, 0, 3),
        (1, 1, 4),
        (2, 0, 4),
        (3, 0, 6),
        (3, 1, 7),
        (4, 0, 7),
    ]


def test_equals_the_formula_with_gradients():
    backbone = Tokens()
    objective = MultiTokenConfig(num_negatives=6, sampling="uniform", temperature=0.5).build()
    torch.manual_seed(3)
    loss = objective(system_of(backbone), BATCH)
    torch.manual_seed(3)
    drawn = torch.randint(9, (6,))
    places, tokens, items = window_of(BATCH, 3)
    total = 0.0
    for place, token, item in zip(places.tolist(), tokens.tolist(), items.tolist(), strict=True):
        scores = backbone.tokens[place, token] @ backbone.table.T / 0.5
        negative = scores[drawn[drawn != item]] - torch.tensor(6 / 9).log()
        total = total - F.log_softmax(torch.cat([scores[item, None], negative]), 0)[0]
    wanted = total / len(items)
    assert loss.count == 9
    torch.testing.assert_close(loss.value, wanted, rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad(value, (backbone.tokens, backbone.table)) for value in (loss.value, wanted)]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_messages_name_argument_rule_and_value():
    with pytest.raises(InvalidValueError, match="num_negatives must be at least 1, got 0"):
        MultiTokenConfig(num_negatives=0).build()


class TestMultiToken(ObjectiveSuite):
    recipe, objective, draws = "pinrec", MultiTokenConfig(num_negatives=20), True

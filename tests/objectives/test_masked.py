from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import MaskedItemsConfig
from genrec_fast.objectives.masked import whole_rows
from shared.catalogs import system_of
from shared.objective_suite import ObjectiveSuite


class Recorder:
    """Keeps what it was asked; the state of a token is its own row of an identity."""

    def __init__(self, items: int) -> None:
        self.table = torch.eye(items, requires_grad=True)

    def embed_masked(self, items: Jagged, at: torch.Tensor) -> torch.Tensor:
        self.items, self.at = items, at
        return torch.zeros(at.shape[0], self.table.shape[0], requires_grad=True)

    def item_table(self) -> torch.Tensor:
        return self.table


def batch() -> Batch:
    items = Jagged.from_rows([[0, 1, 2], [], [3], [4, 5]])
    return Batch(items, torch.tensor([1, 2, 6, 7, 5, -1]))


def test_rows_end_with_the_target_of_their_last_position():
    rows = whole_rows(batch().items, batch().targets)
    assert [row.tolist() for row in rows.rows()] == [[0, 1, 2, 6], [], [3, 7], [4, 5]]


@pytest.mark.parametrize(("ratio", "last_share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_last_alone(ratio, last_share):
    backbone = Recorder(8)
    loss = MaskedItemsConfig(mask_ratio=ratio, last_share=last_share).build()(system_of(backbone), batch())
    assert backbone.items.values.tolist() == [0, 1, 2, -1, 3, -1, 4, -1]
    assert backbone.at.tolist() == [3, 5, 7]
    assert loss.count == 3
    assert float(loss.value.detach()) == pytest.approx(torch.tensor(8.0).log().item(), rel=1e-5)


def test_everything_is_hidden_and_asked():
    backbone = Recorder(8)
    assert MaskedItemsConfig(mask_ratio=1.0, last_share=0.0).build()(system_of(backbone), batch()).count == 8
    assert backbone.items.values.tolist() == [-1] * 8


def test_the_share_that_is_hidden():
    torch.manual_seed(0)
    items = Jagged.from_rows([list(range(50))] * 200)
    backbone = Recorder(51)
    targets = torch.cat([torch.full((49,), -1), torch.tensor([50])]).repeat(200)
    loss = MaskedItemsConfig(mask_ratio=0.3, last_share=0.0).build()(system_of(backbone), Batch(items, targets))
    assert loss.count / (200 * 51) == pytest.approx(0.3, abs=0.02)
    assert torch.equal((backbone.items.values < 0).nonzero().squeeze(1), backbone.at)


def test_bad_settings():
    with pytest.raises(InvalidValueError, match=r"^MaskedItemsConfig: mask_ratio must be in \[0, 1\], got 1.5"):
        MaskedItemsConfig(mask_ratio=1.5)
    with pytest.raises(InvalidValueError, match=r"^MaskedItemsConfig: label_smoothing must be in \[0, 1\), got 1.0"):
        MaskedItemsConfig(label_smoothing=1.0)


class TestMaskedItems(ObjectiveSuite):
    recipe, objective, draws = "bert4rec", MaskedItemsConfig(), True

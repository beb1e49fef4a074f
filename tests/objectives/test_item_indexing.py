from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.objectives import ItemIndexingConfig
from genrec_fast.objectives.item_indexing import Relatives
from shared.catalogs import coded, sized, system_of
from shared.objective_suite import ObjectiveSuite


class TestItemIndexing(ObjectiveSuite):
    recipe = "colarec"
    objective = ItemIndexingConfig()
    draws = True


CODES = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 2]])


def test_relatives_share_their_first_codes():
    torch.manual_seed(0)
    relatives = Relatives(CODES, 2)
    drawn = torch.stack([relatives.draw(torch.arange(5)) for _ in range(200)])
    assert [set(column.tolist()) for column in drawn.T] == [{1, 4}, {0, 4}, {2}, {3}, {0, 1}]
    assert set(Relatives(CODES, 1).draw(torch.full((200,), 2)).tolist()) == {0, 1, 4}
    alone = Relatives(torch.arange(3)[:, None], 2)  # of one level
    assert alone.draw(torch.arange(3)).tolist() == [0, 1, 2]


def test_a_negative_is_neither_seen_nor_wanted_nor_related():
    """Six items: of the first user 5 alone is left, of the second all but the wanted one; of the third none is."""
    codes = torch.cat([CODES, torch.tensor([[1, 1, 1]])])
    objective = ItemIndexingConfig().build(coded(codes, (2, 2, 3)))
    histories = Jagged.from_rows([[2, 3], [], [2, 3, 5]])
    found = set()
    for seed in range(60):
        torch.manual_seed(seed)
        negatives, known = objective.negatives(histories, torch.tensor([0, 3, 1]))
        assert not known[2]
        found |= {(user, int(negatives[user])) for user in range(2) if known[user]}
    assert found == {(0, 5), *((1, item) for item in (0, 1, 2, 4, 5))}


def test_the_loss_by_hand():
    """Items 0 and 1 are relatives; 2 is left for a negative. Summaries are numbers, so products are, too."""
    catalog = coded(torch.tensor([[0, 0], [0, 1], [1, 0]]), (2, 2))
    objective = ItemIndexingConfig(code_weight=0.5, relative_weight=0.25, relative_levels=1).build(catalog)
    summaries = torch.tensor([[2.0], [1.0], [-1.0]])
    even, sure = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    backbone = SimpleNamespace(
        told=lambda batch: ([even, even], torch.tensor([[0.5]])),
        indexed=lambda items, codes: ([sure, sure] if items[0] == 0 else [even, sure], summaries[items]),
        summaries=lambda items: summaries[items],
    )
    batch = Batch(Jagged.from_rows([[1]]), torch.tensor([0]), target_codes=torch.tensor([[0, 0]]))
    torch.manual_seed(0)
    loss = objective(system_of(backbone), batch)
    wanted = {
        "loss_next": math.log(2.0),
        "loss_index": math.log(4 / 3) + (math.log(2.0) + math.log(4 / 3)) / 2,
        "loss_users": math.log1p(math.exp(-(0.5 * 2 - 0.5 * -1))),
        "loss_items": math.log1p(math.exp(-(2 * 1 - 2 * -1))),
    }
    assert loss.figures == pytest.approx(wanted, rel=1e-6)
    total = 0.5 * (wanted["loss_next"] + wanted["loss_index"]) + wanted["loss_users"] + 0.25 * wanted["loss_items"]
    assert float(loss.value) == pytest.approx(total, rel=1e-6)


def test_users_without_a_negative_are_not_ranked():
    """A catalog of two relatives: nothing is ranked, and codes are learned all the same."""
    objective = ItemIndexingConfig(relative_levels=1).build(coded(torch.tensor([[0, 0], [0, 1]]), (1, 2)))
    ones = torch.ones(1, 3, requires_grad=True)
    backbone = SimpleNamespace(
        told=lambda batch: ([ones[:, :1], ones[:, 1:]], ones),
        indexed=lambda items, codes: ([ones[:, :1], ones[:, 1:]], ones),
        summaries=lambda items: ones,
    )
    batch = Batch(Jagged.from_rows([[1]]), torch.tensor([0]), target_codes=torch.tensor([[0, 0]]))
    loss = objective(system_of(backbone), batch)
    assert (loss.figures["loss_users"], loss.figures["loss_items"]) == (0.0, 0.0)
    assert float(loss.value.detach()) == pytest.approx(0.08 * 1.5 * math.log(2.0))


def test_a_catalog_without_semantic_ids_is_refused():
    with pytest.raises(InvalidValueError, match=r"^ItemIndexing: catalog must have item_codes, got None"):
        ItemIndexingConfig().build(sized((2,), 3))

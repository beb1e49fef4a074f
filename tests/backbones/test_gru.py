from __future__ import annotations

import math

import pytest
import torch

from genrec_fast.backbones import GRUConfig
from genrec_fast.backbones.gru import side_by_side
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from shared.backbone_suite import EmbeddingSuite, batch_of
from shared.catalogs import sized


class TestGRU(EmbeddingSuite):
    config = GRUConfig(width=16, hidden=24, num_layers=2, dropout=0.0, max_items=6)

    def test_equals_one_row_at_a_time_in_torch(self):
        _, backbone = self.parts()
        batch = batch_of([4, 0, 1, 6, 4])
        rows = []
        for row in batch.items.rows():
            if len(row):
                read, _ = backbone.gru(backbone.items(row)[:, None] * math.sqrt(16))
                rows.append(backbone.norm(backbone.out(read[-1, 0])))
            else:
                rows.append(backbone.norm(backbone.out(torch.zeros(24))))
        torch.testing.assert_close(backbone.embed_users(batch), torch.stack(rows))


def test_rows_are_read_side_by_side():
    items = Jagged.from_rows([[10], [], [20, 21, 22], [30, 31]])
    order, sizes = side_by_side(items)
    assert items.values[order].tolist() == [20, 30, 10, 21, 31, 22]
    assert sizes.tolist() == [3, 2, 1]


def test_settings_are_checked():
    with pytest.raises(InvalidValueError, match=r"^GRUConfig: hidden must be at least 1, got 0"):
        GRUConfig(hidden=0)
    backbone = GRUConfig(width=4, hidden=4, max_items=2).build(sized((5,), 5))
    with pytest.raises(InvalidValueError, match="gru: histories must have at most max_items = 2"):
        backbone.embed_users(Batch(Jagged.from_rows([[0, 1, 2]])))

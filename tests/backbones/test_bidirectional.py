from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import BidirectionalConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import MaskedEmbedding
from genrec_fast.objectives import MaskedItemsConfig
from shared.backbone_suite import EmbeddingSuite, batch_of
from shared.catalogs import sized, system_of


class TestBidirectional(EmbeddingSuite):
    config = BidirectionalConfig(width=16, num_heads=2, num_layers=2, hidden=32, dropout=0.0, max_items=6)

    def test_every_target_is_asked_with_what_came_before_it(self):
        _, backbone = self.parts()
        batch = batch_of([4, 1, 3], targets="every")
        states = backbone.embed_targets(batch)
        prefixes = [row[: end + 1] for row in batch.items.rows() for end in range(len(row))]
        torch.testing.assert_close(states, backbone.embed_users(Batch(Jagged.from_rows(prefixes))))

    def test_a_masked_item_sees_both_sides_and_not_itself(self):
        _, backbone = self.parts()
        assert isinstance(backbone, MaskedEmbedding)
        at = torch.tensor([1])

        def state(*row: int) -> torch.Tensor:
            return backbone.embed_masked(Jagged.from_rows([list(row)]), at)

        assert not torch.allclose(state(1, -1, 3), state(2, -1, 3))
        assert not torch.allclose(state(1, -1, 3), state(1, -1, 4))
        assert not torch.allclose(state(1, -1, 3), state(1, 5, 3))

    def test_too_long_a_row_is_an_error(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match=r"rows must have at most max_items \+ 1 = 7 tokens, got 8"):
            backbone.embed_masked(Jagged.from_rows([[-1] * 8]), torch.tensor([0]))
        with pytest.raises(InvalidValueError, match="items must be ids or -1 for a masked one, got -2"):
            backbone.embed_masked(Jagged.from_rows([[3, -2]]), torch.tensor([0]))

    def test_learns_a_cycle_from_masks_alone(self):
        """Item i is followed by i + 1: after training with masks, the item behind the history is known."""
        torch.manual_seed(0)
        backbone = dataclasses.replace(self.config, width=32).build(sized((12,), 12))
        objective = MaskedItemsConfig(mask_ratio=0.2, last_share=0.5).build()
        rows = [[(start + step) % 12 for step in range(3)] for start in range(12)]
        items = Jagged.from_rows(rows)
        batch = Batch(items, (items.values + 1) % 12)
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(160):
            optimizer.zero_grad()
            objective(system_of(backbone), batch).value.backward()
            optimizer.step()
        backbone.eval()
        scores = backbone.embed_users(Batch(items)) @ backbone.item_table().T
        assert scores.argmax(1).tolist() == [(row[-1] + 1) % 12 for row in rows]

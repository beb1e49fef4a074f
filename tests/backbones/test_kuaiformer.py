from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import KuaiFormerConfig
from genrec_fast.backbones.kuaiformer import token_numbers
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Interests
from shared.backbone_suite import ITEMS, EmbeddingSuite, batch_of
from shared.catalogs import sized


class TestKuaiFormer(EmbeddingSuite):
    config = KuaiFormerConfig(
        width=16,
        num_heads=2,
        num_layers=2,
        hidden=32,
        num_queries=3,
        recent=2,
        middle=2,
        middle_group=2,
        early_group=3,
        dropout=0.0,
        max_items=9,
    )

    def outputs(self, backbone, batch: Batch) -> list[torch.Tensor]:
        return [backbone.embed_users(batch), backbone.embed_interests(batch)]

    def test_the_last_target_is_the_user(self):
        """... in the one of its interests that is nearest to the target."""
        layout, backbone = self.parts()
        assert isinstance(backbone, Interests)
        batch = layout(batch_of([4, 1, 9]))
        interests = backbone.embed_interests(batch)
        wanted = backbone.item_table()[batch.targets[batch.target_positions]]
        best = (interests * wanted[:, None]).sum(-1).argmax(1)
        torch.testing.assert_close(backbone.embed_targets(batch), interests[torch.arange(3), best])

    def test_every_target_is_asked_with_what_came_before_it(self):
        _, backbone = self.parts()
        items = Jagged.from_rows([[3, 4, 5, 6, 7, 8, 9], [2]])
        every = backbone.embed_targets(Batch(items, torch.tensor([4, 5, 6, 7, 8, 9, 1, 0])))
        for end, target in ((1, 4), (4, 7), (7, 1)):
            row = Jagged.from_rows([list(range(3, 3 + end))])
            alone = backbone.embed_targets(Batch(row, torch.tensor([-1] * (end - 1) + [target])))
            torch.testing.assert_close(every[end - 1], alone[0])

    def test_a_group_is_one_token(self):
        """Equal to the network run by hand on the tokens of one row: 3 early, 1 + 1 middle, 2 recent items."""
        _, backbone = self.parts()
        row = torch.tensor([1, 2, 3, 4, 5, 6, 7])
        x = backbone.items(row) * 4 + backbone.places(torch.arange(6, -1, -1))
        early = backbone.compress(x[:3], torch.tensor([0, 3])).mean(0)
        middle = backbone.compress(x[3:5], torch.tensor([0, 2])).mean(0)
        x = torch.cat([torch.stack([early, middle]), x[5:], backbone.queries])
        for block in backbone.blocks:
            x = block(x, torch.tensor([0, 7]))
        torch.testing.assert_close(backbone.embed_interests(Batch(Jagged.from_rows([row])))[0], backbone.norm(x[4:]))

    def test_groups_count_back_from_the_newest(self):
        back = torch.arange(9)
        assert token_numbers(back, self.config).tolist() == [0, 1, 2, 2, 3, 3, 3, 4, 4]
        assert self.config.max_tokens == 5
        short = dataclasses.replace(self.config, recent=20)
        assert token_numbers(back, short).tolist() == list(range(9))
        assert short.max_tokens == 9


def test_settings_are_checked():
    with pytest.raises(InvalidValueError, match=r"^KuaiFormerConfig: early_group must be at least 1, got 0"):
        KuaiFormerConfig(early_group=0)
    assert KuaiFormerConfig().max_tokens == 55
    assert (
        KuaiFormerConfig(width=8, num_heads=2, num_layers=1).build(sized((ITEMS,), ITEMS)).places.num_embeddings == 256
    )

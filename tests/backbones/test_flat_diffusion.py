from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import FlatDiffusionConfig
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import MaskedRows
from shared.backbone_suite import SIZES, batch_of
from shared.masked_suite import MaskedSuite

SMALL = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 32, "dropout": 0.0, "max_items": 6}


class TestFlatDiffusion(MaskedSuite):
    config = FlatDiffusionConfig(**SMALL)

    def test_probabilities_are_over_the_codes_of_all_levels(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 2]))
        found = backbone.row_logprobs(Jagged(batch.codes, batch.items.offsets), torch.ones(6, 3, dtype=torch.bool))
        assert tuple(found.shape) == (18, sum(SIZES))
        torch.testing.assert_close(found.exp().sum(1), torch.ones(18))

    def test_a_row_is_its_history_and_the_item_behind_it(self):
        layout, backbone = self.parts()
        assert isinstance(backbone, MaskedRows)
        batch = layout(batch_of([4, 2]))
        written = torch.tensor([[2, -1, -1], [-1, 1, 3]])
        codes = [torch.cat([own, row[None]]) for own, row in zip(batch.codes.split([4, 2]), written, strict=True)]
        rows = Jagged.from_rows([list(range(len(part))) for part in codes])
        rows = Jagged(torch.cat(codes), rows.offsets)
        at = rows.values == -1
        found = backbone.row_logprobs(rows, at)
        wanted = torch.cat(
            [torch.cat([part[:, 0] for part in backbone.code_logprobs(backbone.read(batch), written[:, None])], 1)]
        )
        first = wanted[0].split(SIZES)
        torch.testing.assert_close(found[0].split(SIZES)[1], first[1])
        torch.testing.assert_close(found[1].split(SIZES)[2], first[2])
        torch.testing.assert_close(found[2].split(SIZES)[0], wanted[1].split(SIZES)[0])

    def test_too_long_a_row_is_an_error(self):
        _, backbone = self.parts()
        rows = Jagged(torch.zeros(8, 3, dtype=torch.int64), torch.tensor([0, 8]))
        with pytest.raises(InvalidValueError, match=r"rows must have at most max_items \+ 1 = 7 items, got 8"):
            backbone.row_logprobs(rows, torch.ones(8, 3, dtype=torch.bool))

    def test_the_temperature_divides_the_logits(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4]))
        rows, at = Jagged(batch.codes, batch.items.offsets), torch.ones(4, 3, dtype=torch.bool)
        before = backbone.row_logprobs(rows, at)
        backbone.config = dataclasses.replace(backbone.config, temperature=0.5)
        torch.testing.assert_close(backbone.row_logprobs(rows, at), (2 * before).log_softmax(1))

    def test_bad_settings(self):
        with pytest.raises(InvalidValueError, match="masks must be 'level' or 'one', got 'two'"):
            FlatDiffusionConfig(masks="two")
        with pytest.raises(InvalidValueError, match="temperature must be above 0"):
            FlatDiffusionConfig(temperature=0.0)


class TestOneMask(MaskedSuite):
    """As in LLaDA-Rec's public code: nothing tells the masked codes of an item from each other."""

    config = FlatDiffusionConfig(masks="one", **SMALL)

    def training_value(self, backbone, batch):
        """Of one masked code at a time: several of an item are told alike, and cannot be learned by heart."""
        codes = batch.target_codes
        masked = torch.eye(len(SIZES), dtype=torch.bool)
        found = backbone.code_logprobs(backbone.read_targets(batch), codes[:, None].masked_fill(masked, -1))
        own = [part[:, level].gather(1, codes[:, level, None]) for level, part in enumerate(found)]
        return -torch.cat(own).mean()

    def test_masked_codes_of_an_item_are_told_alike(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([2, 3]))
        rows = Jagged(torch.full((5, 3), -1), batch.items.offsets)
        found = backbone.row_logprobs(rows, rows.values == -1).view(5, 3, -1)
        torch.testing.assert_close(found, found[:, :1].expand_as(found))

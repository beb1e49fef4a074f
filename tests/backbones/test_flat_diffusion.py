from __future__ import annotations

import dataclasses

import pytest
import torch

from genrec_fast.backbones import FlatDiffusionConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import MaskedCodes, MaskedRows
from shared.backbone_suite import SIZES, BackboneSuite, batch_of

SMALL = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 32, "dropout": 0.0, "max_items": 6}
NOTHING = torch.full((1, 1, len(SIZES)), -1)


class MaskedSuite(BackboneSuite):
    """What every backbone of masked codes must show."""

    def outputs(self, backbone, batch):
        logprobs = backbone.code_logprobs(backbone.read(batch), NOTHING.expand(len(batch), -1, -1))
        return [part[:, 0] for part in logprobs]

    def training_value(self, backbone, batch):
        codes = batch.target_codes
        written = torch.stack([codes.masked_fill(torch.arange(len(SIZES)) >= known, -1) for known in range(3)], 1)
        found = backbone.code_logprobs(backbone.read_targets(batch), written)
        own = [part.gather(2, codes[:, level, None, None].expand(-1, 3, -1)) for level, part in enumerate(found)]
        return -torch.stack([part[:, : level + 1].mean() for level, part in enumerate(own)]).mean()

    def test_speaks_the_protocol(self):
        _, backbone = self.parts()
        assert isinstance(backbone, MaskedCodes)
        assert backbone.codebook_sizes == SIZES

    def test_the_last_target_is_the_user(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 1, 6], targets="last"))
        nothing = NOTHING.expand(3, -1, -1)
        users = backbone.code_logprobs(backbone.read(batch), nothing)
        for ours, theirs in zip(backbone.code_logprobs(backbone.read_targets(batch), nothing), users, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_every_target_sees_what_came_before_it(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 2], targets="every"))
        found = backbone.code_logprobs(backbone.read_targets(batch), NOTHING.expand(6, -1, -1))
        rows = [row[:end] for row in batch.items.rows() for end in range(1, len(row) + 1)]
        alone = layout(Batch(Jagged.from_rows(rows)))
        for ours, theirs in zip(
            found, backbone.code_logprobs(backbone.read(alone), NOTHING.expand(6, -1, -1)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_a_row_does_not_depend_on_the_other_rows_of_its_user(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 0, 6]))
        histories = backbone.read(batch)
        written = torch.tensor([[-1, -1, -1], [3, -1, -1], [-1, 2, 10], [6, 4, -1]]).expand(3, -1, -1)
        together = backbone.code_logprobs(histories, written)
        for row in range(4):
            alone = backbone.code_logprobs(histories, written[:, row : row + 1])
            for ours, theirs in zip(alone, together, strict=True):
                torch.testing.assert_close(ours[:, 0], theirs[:, row], rtol=1e-4, atol=1e-5)

    def test_what_is_written_matters_and_is_seen_in_both_directions(self):
        layout, backbone = self.parts()
        histories = backbone.read(layout(batch_of([4])))
        one, other = (backbone.code_logprobs(histories, torch.tensor([[[-1, code, -1]]])) for code in (1, 2))
        for level in (0, 2):
            assert not torch.allclose(one[level], other[level])

    def test_a_batch_without_codes_is_an_error(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match=r"batch must have codes \(let it pass a layout first\)"):
            backbone.read(Batch(Jagged.from_rows([[1]])))


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

    def test_learns_to_repeat(self):
        pytest.skip("what is masked of an item is told alike, so its codes cannot be learned by heart")

    def test_masked_codes_of_an_item_are_told_alike(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([2, 3]))
        rows = Jagged(torch.full((5, 3), -1), batch.items.offsets)
        found = backbone.row_logprobs(rows, rows.values == -1).view(5, 3, -1)
        torch.testing.assert_close(found, found[:, :1].expand_as(found))

"""What every backbone of masked codes must show; a test file joins by subclassing ``MaskedSuite``."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import MaskedCodes
from shared.backbone_suite import SIZES, BackboneSuite, batch_of

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

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import ParallelHeadsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Parallel
from shared.backbone_suite import ITEMS, SIZES, BackboneSuite, batch_of

SMALL = {"width": 16, "num_heads": 2, "num_layers": 1, "hidden": 32, "dropout": 0.0, "max_items": 6}


class TestParallelHeads(BackboneSuite):
    config = ParallelHeadsConfig(temperature=0.2, **SMALL)
    sizes = SIZES

    def outputs(self, backbone, batch):
        return backbone.user_logits(batch)

    def training_value(self, backbone, batch):
        wanted = batch.target_codes
        if len(self.sizes) > len(SIZES):
            wanted = torch.cat([wanted, batch.targets[batch.target_positions, None]], 1)
        logits = backbone.target_logits(batch)
        parts = [F.cross_entropy(part.float(), wanted[:, level]) for level, part in enumerate(logits)]
        return torch.stack(parts).mean()

    def test_speaks_the_protocol(self):
        _, backbone = self.parts()
        assert isinstance(backbone, Parallel)
        assert backbone.codebook_sizes == self.sizes
        assert [tuple(table.shape) for table in backbone.code_tables()] == [(size, 16) for size in self.sizes]

    def test_the_last_target_is_the_user(self):
        layout, backbone = self.parts()
        batch = layout(batch_of([4, 1, 6]))
        for forced, asked in zip(backbone.target_logits(batch), backbone.user_logits(batch), strict=True):
            torch.testing.assert_close(forced, asked)

    def test_a_batch_without_codes_is_an_error(self):
        _, backbone = self.parts()
        with pytest.raises(InvalidValueError, match=r"batch must have codes \(let it pass a layout first\)"):
            backbone.user_logits(Batch(Jagged.from_rows([[1]])))


class TestWithItems(TestParallelHeads):
    config = ParallelHeadsConfig(temperature=0.2, predict_items=True, **SMALL)
    sizes = (*SIZES, ITEMS)

    def test_items_of_equal_codes_are_told_apart(self):
        layout, backbone = self.parts()
        one, other = (layout(Batch(Jagged.from_rows([[item]]))) for item in (0, 1))
        alike = backbone.user_logits(one), backbone.user_logits(Batch(other.items, codes=one.codes))
        assert not torch.allclose(alike[0][-1], alike[1][-1])


def test_at_the_start_every_head_is_the_state_and_logits_are_cosines_over_the_temperature():
    suite = TestParallelHeads()
    layout, backbone = suite.parts()
    batch = layout(batch_of([4, 0, 6], targets="every"))
    states = backbone._states(batch)[[4, 5, 12]]  # behind the last item of each, after the starts of the rows so far
    for logits, table in zip(backbone.user_logits(batch), backbone.code_tables(), strict=True):
        cosines = F.cosine_similarity(states[:, None], table[None], dim=-1)
        torch.testing.assert_close(logits, cosines / 0.2)


def test_a_head_is_the_state_and_what_silu_leaves_of_its_projection():
    suite = TestParallelHeads()
    layout, backbone = suite.parts()
    torch.nn.init.normal_(backbone.heads.weight)
    torch.nn.init.normal_(backbone.heads.bias)
    batch = layout(batch_of([4, 2]))
    states = backbone._states(batch)[[4, 7]]
    for level, logits in enumerate(backbone.user_logits(batch)):
        rows = slice(16 * level, 16 * level + 16)
        projected = states @ backbone.heads.weight[rows].T + backbone.heads.bias[rows]
        head = states + projected * torch.sigmoid(projected)
        cosines = F.cosine_similarity(head[:, None], backbone.code_tables()[level][None], dim=-1)
        torch.testing.assert_close(logits, cosines / 0.2)


def test_the_input_is_the_mean_of_the_codes_embeddings():
    """Two items whose codes have the same mean are read alike."""
    suite = TestParallelHeads()
    layout, backbone = suite.parts()
    batch = layout(Batch(Jagged.from_rows([[3]])))
    tables = backbone.code_tables()
    with torch.no_grad():
        mean = torch.stack([table[code] for table, code in zip(tables, batch.codes[0], strict=True)]).mean(0)
        before = backbone.user_logits(batch)
        states = backbone._states(batch)
        for table, code in zip(tables, batch.codes[0], strict=True):
            table[code] = mean
        torch.testing.assert_close(backbone._states(batch), states)
    assert before[0].shape == (1, SIZES[0])

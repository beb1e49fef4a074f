from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

import genrec_fast as gf
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.trie import build_trie
from proofs import shop
from proofs.any_order import HIDDEN, AnyOrderConfig
from proofs.masked_codes import Masked, MaskedConfig
from proofs.suite import ProofSuite
from shared.backbone_suite import SIZES, SearchedSuite, batch_of
from shared.catalogs import system_of


class ByLevel(Masked):
    """Trained in the order of the levels: those that come are hidden."""

    def level_logits(self, batch):
        history, levels = self.read(batch), len(self.codebook_sizes)
        before = [F.pad(batch.target_codes[:, :i], (0, levels - i), value=HIDDEN) for i in range(levels)]
        return [self.slot_logits(history, codes.unsqueeze(1))[i][:, 0] for i, codes in enumerate(before)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByLevelConfig(MaskedConfig):
    def build(self, catalog):
        return ByLevel(self, catalog.codebook_sizes)


class TestBackbone(SearchedSuite):
    config = ByLevelConfig(dropout=0.0, max_items=6)
    targets = "last"

    def test_an_empty_batch_gives_empty_outputs(self):
        pytest.skip("attention of torch.nn takes no empty batch, and no search asks for one")

    def test_codes_are_told_in_any_order(self):
        """Learned by heart: whichever of an item's codes are hidden, they are told from those that are not."""
        layout, backbone = self.parts()
        batch, system = layout(batch_of([3, 4, 2], seed=3)), system_of(backbone)
        objective, optimizer = AnyOrderConfig().build(None), torch.optim.AdamW(backbone.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            objective(system, objective.prepare(system, batch)).value.backward()
            optimizer.step()
        for hidden in itertools.product([False, True], repeat=len(SIZES)):
            written = batch.target_codes.masked_fill(torch.tensor(hidden), HIDDEN)
            told = backbone.slot_logits(backbone.read(batch), written.unsqueeze(1))
            for level, logits in enumerate(told):
                if hidden[level]:
                    assert torch.equal(logits[:, 0].argmax(1), batch.target_codes[:, level]), hidden

    def test_a_wide_beam_finds_the_best_of_all_items(self):
        """The one search over the trie: its scores are those of every item written out."""
        layout, backbone = self.parts()
        batch, trie = layout(batch_of([6, 0, 3])), build_trie(layout.item_codes, codebook_sizes=SIZES)
        with torch.no_grad():
            every = [
                backbone.level_logits(dataclasses.replace(batch, target_codes=codes.long().expand(3, -1)))
                for codes in layout.item_codes
            ]
            scores = torch.stack(
                [
                    sum(logits[i].log_softmax(1)[:, code] for i, code in enumerate(codes.tolist()))
                    for logits, codes in zip(every, layout.item_codes, strict=True)
                ],
                1,
            )
        found = gf.BeamConfig().build().search(backbone, batch, trie, 5, exact=True)
        assert bool(found.exact.all())
        torch.testing.assert_close(found.scores, scores.topk(5).values, rtol=1e-4, atol=1e-4)
        narrow = gf.BeamConfig().build().search(backbone, batch, trie, 5, num_beams=5, exact=True)  # widens
        assert torch.equal(narrow.items, found.items)


class TestMasked(ProofSuite):
    name, kill_at = "masked_codes", 15

    def test_objectives_say_what_they_need(self):
        with pytest.raises(InvalidValueError, match="objective AnyOrder needs MaskedCodes; backbone T5 gives Autoreg"):
            dataclasses.replace(shop.recipe(), objective=AnyOrderConfig())

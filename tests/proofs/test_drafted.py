from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import genrec_fast as gf
from genrec_fast.nn.engine.native import NativeSession
from proofs import shop
from proofs.suite import ProofSuite

HISTORIES = [[1, 2, 3], [70], [5, 5, 9, 11], [30, 2]]
ALLOWED = torch.rand(4, 72, generator=torch.Generator().manual_seed(0)) < 0.5


class TestDrafted(ProofSuite):
    name, kill_at = "drafted", 15

    @pytest.fixture
    def plain(self, model):
        """The same model, searched without a draft."""
        plain = copy.copy(model)
        plain.decoder = gf.BeamConfig(num_beams=10).build()
        return plain

    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"num_beams": 40},
            {"num_beams": [5, 12, 10]},
            {"num_beams": torch.tensor([10, 30, 20, 11])},
            {"exact": True},
            {"allowed": ALLOWED, "exclude_seen": True},
        ],
        ids=",".join,
    )
    def test_the_answers_are_those_of_the_plain_beam(self, model, plain, asked):
        ours, theirs = (some.recommend(HISTORIES, **asked) for some in (model, plain))
        for name in ("items", "codes", "scores", "exact", "bound"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name

    def test_concurrent_questions_too(self, model, plain):
        with model.batcher() as batcher:
            found = [batcher.submit([history], k=5) for history in HISTORIES]
            found = torch.cat([future.result().items for future in found])
        assert torch.equal(found, plain.recommend(HISTORIES, k=5).items)

    @pytest.mark.parametrize(("num_drafts", "passes"), [(72, 1), (1, 3)])
    def test_what_was_drafted_is_read_once(self, model, plain, num_drafts, passes, monkeypatch):
        """In one pass, and another one at each level at which the search looks elsewhere."""
        asked, extend = [], NativeSession.extend_tree
        monkeypatch.setattr(NativeSession, "extend_tree", lambda *given: asked.append(1) or extend(*given))
        other = copy.copy(model)
        other.decoder = dataclasses.replace(model.recipe.decoder, num_drafts=num_drafts).build()
        assert torch.equal(other.recommend(HISTORIES).items, plain.recommend(HISTORIES).items)
        assert len(asked) == passes

    def test_the_draft_is_trained_and_saved(self, model, folder):
        saved = gf.load(folder)
        assert type(saved.draft).__name__ == "Timeline"
        assert saved.draft.features is None  # the layout hands on none
        untrained = gf.load(folder).recipe.decoder.draft.build(model.catalog.with_features(None))
        assert not torch.equal(untrained.heads[0].weight, saved.draft.heads[0].weight)

    def test_a_training_that_starts_from_it_takes_the_draft_over(self, model):
        stopped = {"epochs": 1, "learning_rate": 1e-30, "warmup_steps": 0}
        again = gf.train(shop.changed(model.recipe, **stopped), shop.data(), start=model, device="cpu")
        torch.testing.assert_close(again.draft.state_dict(), model.draft.state_dict())

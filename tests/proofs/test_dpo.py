from __future__ import annotations

import math

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.data import evaluation_batches
from proofs import dpo, shop
from proofs.suite import ProofSuite


class TestDPO(ProofSuite):
    name, kill_at, starts = "dpo", 15, True

    def test_the_preferred_items_gain_on_the_others(self, model, start):
        """Of the pairs that the first model's mistakes make, on the histories of the test."""
        first = gf.load(start)
        first.keep_reference()
        test = gf.data.leave_one_out(shop.data().interactions).test
        won, lost = [], []
        for batch in evaluation_batches(test, max_items=20, users_per_batch=64):
            pairs = model.objective.prepare(first, first.batch(batch))
            before, after = (model.objective(some, pairs) for some in (first, model))
            torch.testing.assert_close(before.value, torch.tensor(math.log(2)))  # a model is no better than itself
            assert before.figures["won"] == 0
            won.append(after.figures["won"])
            lost.append(float(after.value.detach()))
        assert min(won) > 0.5
        assert max(lost) < math.log(2)

    def test_only_the_network_is_trained(self, model, start):
        """The reference stays what it was, and is not saved."""
        first = gf.load(start).backbone.state_dict()
        assert all(torch.equal(tensor, first[name]) for name, tensor in model.reference.state_dict().items())
        assert not any("reference" in name for name in model.state_dict())

    def test_there_is_nothing_to_compare_with(self):
        with pytest.raises(InvalidValueError, match="start must be a trained model, as DPO compares with it, got None"):
            gf.train(dpo.recipe(), shop.data(), device="cpu", show_progress=False)

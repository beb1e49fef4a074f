from __future__ import annotations

import torch

import genrec_fast as gf
from genrec_fast.catalog.trie import build_trie
from genrec_fast.training.log import read_log
from proofs import shop
from proofs.suite import ProofSuite


class TestJoint(ProofSuite):
    name, kill_at = "joint", 27  # within the first epoch of the new codes

    def test_the_model_has_the_codes_that_it_learned(self, model, folder):
        first = gf.train(shop.recipe(), shop.data(), seed=3, device="cpu", show_progress=False)
        codes = model.catalog.item_codes
        assert not torch.equal(codes, first.catalog.item_codes)
        learned, _, _ = model.quantizer(model.catalog.features)
        assert not torch.equal(learned, first.catalog.item_codes)
        for kept in (model, gf.load(folder)):
            assert torch.equal(kept.catalog.item_codes, codes)
            assert torch.equal(kept.layout.item_codes, codes.int())
            fresh = build_trie(codes, codebook_sizes=kept.codebook_sizes)
            assert all(torch.equal(a, b) for a, b in zip(kept.trie.tokens, fresh.tokens, strict=True))

    def test_both_learn_in_turn(self, model, folder):
        losses = [line for line in read_log(folder / "log.jsonl") if "loss" in line]
        quantized = [line["epoch"] for line in losses if "loss_quantizer" in line]
        assert set(quantized) == {1, 3}
        assert {line["epoch"] for line in losses if "loss_level_0" in line} == {0, 2, 4}
        assert int(model.quantizer.epoch) == 4

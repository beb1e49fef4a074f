from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers import CollaborativeConfig, HierarchicalConfig, TwoTreesConfig
from shared.catalogs import wide
from shared.tokenizer_suite import TokenizerSuite


class TestTwoTrees(TokenizerSuite):
    reads_features = False  # it does, but an item needs a place in the histories, too

    def config(self, folder):
        return TwoTreesConfig(codebook_sizes=(4, 3), width=8)

    def test_codes_are_paths_in_both_trees(self):
        """The first tree is Collaborative's; the second has as even and as near a grouping as Hierarchical's."""
        features, histories = self.features(), self.histories()
        tokenizer = self.fitted(None)
        behaviour = CollaborativeConfig(codebook_sizes=(4, 3), width=8, dedup="none").build()
        behaviour.fit(num_items=self.items, histories=histories, seed=0)
        assert torch.equal(tokenizer.item_codes[:, :2], behaviour.item_codes)
        meaning = tokenizer.item_codes[:, 2:4].long()
        leaves = torch.bincount(meaning[:, 0] * 3 + meaning[:, 1], minlength=12)
        assert sorted(leaves.tolist()) == [4] * 10 + [5] * 2
        content = HierarchicalConfig(codebook_sizes=(4, 3), dedup="none").build(wide(6))
        content.fit(features, seed=0)
        ours, theirs = (
            sum(float((features[c == k] - features[c == k].mean(0)).square().sum()) for k in range(4))
            for c in (meaning[:, 0], content.item_codes[:, 0].long())
        )
        assert ours < 1.2 * theirs
        assert tokenizer.config.sizes == (4, 3, 4, 3)

    def test_histories_are_asked_for(self):
        tokenizer = TwoTreesConfig(codebook_sizes=(4,)).build(wide(6))
        with pytest.raises(InvalidValueError, match=r"two_trees: histories must be given .* got None"):
            tokenizer.fit(self.features())

    def test_features_are_asked_for(self):
        with pytest.raises(InvalidValueError, match="TwoTreesConfig: feature_dim must be at least 1"):
            TwoTreesConfig().build(wide(None))

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers import RandomConfig
from shared.tokenizer_suite import TokenizerSuite


class TestRandom(TokenizerSuite):
    reads_features = False

    def config(self, folder):
        return RandomConfig(codebook_sizes=(5, 4))

    def test_codes_are_uniform_and_ids_unique(self):
        tokenizer = RandomConfig(codebook_sizes=(4, 4)).build()
        tokenizer.fit(num_items=4000, seed=3)
        counts = torch.bincount(tokenizer.item_codes[:, 0], minlength=4)
        assert bool(((counts - 1000).abs() < 150).all())  # five standard deviations
        assert tokenizer.report()["collision_rate"] == 0
        assert len(tokenizer.codebook_sizes) == 3

    def test_messages(self):
        with pytest.raises(InvalidValueError, match=r"RandomConfig: codebook_sizes must be in \[1, 65536\], one per"):
            RandomConfig(codebook_sizes=(0,))
        with pytest.raises(InvalidValueError, match=r"RandomConfig: dedup must be .* or 'none', got 'no'"):
            RandomConfig(dedup="no")

from __future__ import annotations

import pytest

from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.tokenizers import AtomicConfig
from shared.tokenizer_suite import TokenizerSuite


class TestAtomic(TokenizerSuite):
    reads_features = False
    random = False

    def config(self, folder):
        return AtomicConfig()

    def test_an_item_is_its_own_code(self, tmp_path):
        tokenizer = AtomicConfig().build()
        tokenizer.fit(num_items=70_000)
        assert tokenizer.item_codes[69_999].tolist() == [69_999]
        assert tokenizer.codebook_sizes == (70_000,)
        with pytest.raises(InvalidValueError, match="atomic: num_items must be at least 1, got None"):
            tokenizer.fit()

    def test_it_reads_no_features(self):
        with pytest.raises(UnsupportedError, match="atomic: encode needs a tokenizer of feature vectors"):
            AtomicConfig().build().encode(self.features())
        with pytest.raises(UnsupportedError, match="atomic: decode needs a tokenizer of feature vectors"):
            AtomicConfig().build().decode(self.features())

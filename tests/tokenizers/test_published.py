from __future__ import annotations

import json

import pytest

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.tokenizers import PublishedConfig
from shared.tokenizer_suite import TokenizerSuite


def written(folder, ids):
    path = folder / "ids.json"
    path.write_text(ids if isinstance(ids, str) else json.dumps(ids))
    return str(path)


class TestPublished(TokenizerSuite):
    reads_features = False
    random = False

    def config(self, folder):
        return PublishedConfig(path=written(folder, {str(i): [f"<a_{i % 7}>", f"<b_{i % 11}>"] for i in range(50)}))

    def test_ids_are_those_of_the_file(self, tmp_path):
        path = written(tmp_path, {"2": ["<a_1>", "<b_9>"], "1": ["<a_5>", "<b_0>"], "3": ["<a_1>", "<b_9>"]})
        tokenizer = PublishedConfig(path=path, first=1).build()
        tokenizer.fit()
        assert tokenizer.item_codes.tolist() == [[5, 0], [1, 9], [1, 9]]
        assert tokenizer.codebook_sizes == (6, 10)
        tokenizer = PublishedConfig(path=path, first=1, codebook_sizes=(256, 256), dedup="rank").build()
        tokenizer.fit()
        assert tokenizer.item_codes.tolist() == [[5, 0, 0], [1, 9, 0], [1, 9, 1]]
        assert tokenizer.codebook_sizes == (256, 256, 2)

    @pytest.mark.parametrize(
        ("ids", "reason"),
        [
            ("{", r"ids.json:1: not JSON"),
            ({"0": ["<a_1>"], "1": ["<a_x>"]}, r"ids.json: item '1': a code must look like <a_183>"),
            ({"0": ["<a_1>"], "2": ["<a_1>"]}, r"ids.json: item 1 is missing"),
            ({"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}, r"ids.json: item '1' has 2 codes"),
            ({"0": ["<a_1>"], "1": ["<a_9>"]}, r"ids.json: item '1': code of level 0 must be below 4, got 9"),
            ({"0": ["<a_1>", "<b_1>"]}, r"ids.json: must hold IDs of 1 levels, one for each size, got 2"),
        ],
    )
    def test_a_malformed_file_is_named_with_item_and_reason(self, tmp_path, ids, reason):
        with pytest.raises(DataError, match=reason):
            PublishedConfig(path=written(tmp_path, ids), codebook_sizes=(4,)).build().fit()

    def test_another_catalog(self, tmp_path):
        with pytest.raises(DataError, match=r"ids.json: must hold 51 items, one for each of the catalog, got 50"):
            self.config(tmp_path).build().fit(num_items=51)
        with pytest.raises(DataError, match=r"no.json: cannot be read"):
            PublishedConfig(path=str(tmp_path / "no.json")).build().fit()
        with pytest.raises(InvalidValueError, match="PublishedConfig: first must be at least 0, got -1"):
            PublishedConfig(path="x", first=-1)

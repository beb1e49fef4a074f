from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.trie import build_trie
from genrec_fast.decoders import GreedyConfig
from shared.decoder_suite import DecoderSuite, users_of
from shared.random_model import RandomModel, brute_force


def test_the_certificate_is_honest_and_holds_for_a_sure_model():
    codes = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    trie = build_trie(codes)
    for scale, sure in ((1.0, False), (200.0, True)):
        model, batch = RandomModel((5, 5), scale=scale), users_of(20, 25, 0)
        found = GreedyConfig().build().search(model, batch, trie, 1)
        _, items, _ = brute_force(model, batch, codes, 1)
        assert bool(found.exact.any()) == sure
        assert torch.equal(found.items[found.exact], items[found.exact])


def test_more_columns_than_items_of_the_one_row():
    trie = build_trie(torch.tensor([[0], [0], [1]]))
    found = GreedyConfig().build().search(RandomModel((2,), scale=0.0), users_of(1, 3, 0), trie, k=3)
    assert found.items.tolist() == [[0, 1, -1]]
    assert found.exact.tolist() == [False]  # item 2 ties and was pruned


def test_it_cannot_widen():
    decoder, trie, batch = GreedyConfig().build(), build_trie(torch.tensor([[0], [1]])), users_of(1, 2, 0)
    with pytest.raises(InvalidValueError, match="greedy: num_beams must be 1, got 4"):
        decoder.search(RandomModel((2,)), batch, trie, 1, num_beams=4)
    with pytest.raises(InvalidValueError, match="greedy: exact must be False as one beam cannot widen"):
        decoder.search(RandomModel((2,)), batch, trie, 1, exact=True)
    with pytest.raises(InvalidValueError, match="GreedyConfig: normalize must be 'all' or 'valid', got 'no'"):
        GreedyConfig(normalize="no")


class TestSuite(DecoderSuite):
    decoder = GreedyConfig().build()

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import RetrieveConfig, score_candidates


class Vectors:
    def __init__(self, users, items, dim=37):
        generator = torch.Generator().manual_seed(0)
        self.users = torch.randn(users, dim, generator=generator)
        self.table = torch.randn(items, dim, generator=generator)

    def embed_targets(self, batch):
        raise NotImplementedError

    def embed_users(self, batch):
        return self.users

    def item_table(self):
        return self.table


def test_scores_are_those_of_the_search_bit_for_bit():
    model, batch = Vectors(4, 30), Batch(Jagged.from_rows([[1]] * 4))
    ranked = RetrieveConfig().build().search(model, batch, None, 30)
    scores = torch.empty(4, 30).scatter_(1, ranked.items, ranked.scores)
    rows = [[3, 3, 0], [], list(range(29, -1, -1)), [7]]
    found = score_candidates(model, batch, Jagged.from_rows(rows))
    assert found.lengths.tolist() == [3, 0, 30, 1]
    for user, row in enumerate(rows):
        assert torch.equal(found[user], scores[user, row])


def test_no_candidates_and_no_users():
    assert score_candidates(
        Vectors(2, 5), Batch(Jagged.from_rows([[1]] * 2)), Jagged.from_rows([[], []])
    ).lengths.tolist()
    none = score_candidates(Vectors(0, 5), Batch(Jagged.from_rows([])), Jagged.from_rows([]))
    assert len(none) == 0
    assert none.values.numel() == 0


def test_messages_name_argument_rule_and_value():
    model, batch = Vectors(2, 5), Batch(Jagged.from_rows([[1]] * 2))
    with pytest.raises(InvalidTypeError, match="score_candidates: backbone must be Embedding, got int"):
        score_candidates(3, batch, Jagged.from_rows([[1], [2]]))
    with pytest.raises(InvalidTypeError, match="candidates must be int64 Jagged, got list"):
        score_candidates(model, batch, [[1], [2]])
    with pytest.raises(InvalidTypeError, match=r"candidates must be int64 Jagged, got torch\.int32"):
        score_candidates(model, batch, Jagged.from_rows([[1], [2]], torch.int32))
    altered = Jagged.from_rows([[0], [1]])
    altered.offsets[1] = 7
    with pytest.raises(InvalidValueError, match="Jagged: offsets must not decrease"):
        score_candidates(model, batch, altered)
    with pytest.raises(InvalidValueError, match="one row for each of 2 users, got 1"):
        score_candidates(model, batch, Jagged.from_rows([[1]]))
    with pytest.raises(InvalidValueError, match=r"candidates must be item ids in \[0, 5\), got 5"):
        score_candidates(model, batch, Jagged.from_rows([[1], [5]]))
    with pytest.raises(InvalidValueError, match=r"candidates must be item ids in \[0, 5\), got -1"):
        score_candidates(model, batch, Jagged.from_rows([[1], [-1]]))
    model.table[4, 0] = torch.nan
    with pytest.raises(InvalidValueError, match="embeddings must be finite, got NaN for item 4"):
        score_candidates(model, batch, Jagged.from_rows([[1], [4]]))

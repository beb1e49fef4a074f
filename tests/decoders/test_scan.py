from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import ScanConfig


class Scores:
    def __init__(self, scores):
        self.scores, self.num_items = scores, scores.shape[1]

    def score_items(self, batch):
        return self.scores[batch.items.values].clone()


def ask(scores, k, users=None, **options):
    users = list(range(len(scores))) if users is None else users
    scan = ScanConfig(scores_per_block=options.pop("block", 1 << 20)).build()
    return scan.search(Scores(scores), Batch(Jagged.from_rows([[user] for user in users])), None, k, **options)


@pytest.mark.parametrize("block", [1, 12, 1 << 20])
def test_the_best_of_every_row_lower_item_first(block):
    scores = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0], [4.0, 1.0, 2.0, 3.0]])
    found = ask(scores, 3, block=block)
    assert found.items.tolist() == [[1, 2, 3], [0, 1, 2], [0, 3, 2]]
    assert found.scores.tolist() == [[2.0, 2.0, 1.0], [3.0, 3.0, 3.0], [4.0, 3.0, 2.0]]
    assert found.exact.all()


def test_filters():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).repeat(2, 1)
    found = ask(scores, 4, exclude=Jagged.from_rows([[0], [1, 3]]), allowed=torch.tensor([True, True, False, True]))
    assert found.items.tolist() == [[1, 3, -1, -1], [0, -1, -1, -1]]


def test_a_backbone_without_scores_is_refused():
    with pytest.raises(InvalidTypeError, match=r"^scan: backbone must be ItemScores, got object"):
        ScanConfig().build().search(object(), Batch(Jagged.from_rows([[0]])), None, 1)

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders import RetrieveInterestsConfig


def search(backbone, batch, k, *, items_per_block=65536, **options):
    return RetrieveInterestsConfig(items_per_block=items_per_block).build().search(backbone, batch, None, k, **options)


class Fixed:
    def __init__(self, users: torch.Tensor, table: torch.Tensor) -> None:
        self.users, self.table = users, table

    def embed_interests(self, batch: Batch) -> torch.Tensor:
        return self.users

    def item_table(self) -> torch.Tensor:
        return self.table


def system(users: int = 5, interests: int = 3, items: int = 40) -> tuple[Fixed, Batch]:
    generator = torch.Generator().manual_seed(0)
    backbone = Fixed(torch.randn(users, interests, 4, generator=generator), torch.randn(items, 4, generator=generator))
    return backbone, Batch(Jagged.from_rows([[0]] * users))


@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("block", [11, 65536])
def test_equals_the_maximum_over_interests(k, block):
    backbone, batch = system()
    found = search(backbone, batch, k, items_per_block=block)
    scores = torch.einsum("bid,nd->bin", backbone.users, backbone.table).amax(1)
    best, items = torch.sort(scores, dim=1, descending=True, stable=True)
    assert torch.equal(found.items, items[:, :k])
    torch.testing.assert_close(found.scores, best[:, :k])
    assert torch.equal(found.codes[..., 0].long(), found.items)
    assert bool(found.exact.all())


def test_filters_hold_for_every_interest():
    backbone, batch = system()
    generator = torch.Generator().manual_seed(1)
    allowed = torch.rand(5, 40, generator=generator) < 0.3
    exclude = Jagged.from_rows([allowed[user].nonzero()[:2, 0] for user in range(5)])
    found = search(backbone, batch, 20, allowed=allowed, exclude=exclude)
    for user in range(5):
        kept = set(allowed[user].nonzero()[:, 0].tolist()) - set(exclude[user].tolist())
        listed = found.items[user][found.items[user] >= 0].tolist()
        assert set(listed) == kept if len(kept) <= 20 else len(listed) == 20
        assert len(set(listed)) == len(listed)
        assert bool((found.scores[user][found.items[user] < 0] == -torch.inf).all())


def test_one_filter_for_all_users():
    backbone, batch = system()
    allowed = torch.arange(40) % 3 == 0
    found = search(backbone, batch, 5, allowed=allowed)
    assert bool((found.items % 3 == 0).all())
    assert torch.equal(search(backbone, batch, 5, allowed=allowed[None]).items, found.items)


def test_nobody_and_equal_interests():
    backbone, _ = system(users=0)
    assert search(backbone, Batch(Jagged.from_rows([])), 3).items.shape == (0, 3)
    same = Fixed(torch.ones(1, 4, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
    found = search(same, Batch(Jagged.from_rows([[0]])), 5)
    assert found.items.tolist() == [[2, 0, 1, -1, -1]]


def test_bad_arguments():
    backbone, batch = system()
    with pytest.raises(InvalidTypeError, match=r"^retrieve_interests: backbone must be Interests, got object"):
        search(object(), batch, 3)
    with pytest.raises(InvalidValueError, match="retrieve_interests: k must be"):
        search(backbone, batch, 0)
    with pytest.raises(InvalidValueError, match="items_per_block must be at least 1, got 0"):
        RetrieveInterestsConfig(items_per_block=0)

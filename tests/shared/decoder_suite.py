"""What every decoder must show; a test file joins by subclassing ``DecoderSuite``."""

from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.trie import build_trie
from shared.random_model import RandomModel


def users_of(users: int, items: int, seed: int) -> Batch:
    """Random histories of 0 to 4 items."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, (users,), generator=generator).tolist()
    rows = [torch.randint(items, (length,), generator=generator) for length in lengths]
    return Batch(Jagged.from_rows(rows))


class DecoderSuite:
    """Set ``decoder``; ``num_levels`` 1 means that an item's code is its id."""

    items = 40
    num_levels = 3

    def backbone(self):
        return RandomModel((8, 8, 8), 3)

    def trie(self):
        codes = torch.randint(8, (self.items, 3), generator=torch.Generator().manual_seed(1))
        return build_trie(codes, codebook_sizes=(8, 8, 8))

    def search(self, batch, k=5, **options):
        return self.decoder.search(self.backbone(), batch, self.trie(), k, **options)

    def test_shapes_dtypes_and_order(self):
        found = self.search(users_of(6, self.items, 0))
        assert (found.items.dtype, tuple(found.items.shape)) == (torch.int64, (6, 5))
        assert (found.codes.dtype, tuple(found.codes.shape)) == (torch.int32, (6, 5, self.num_levels))
        assert (found.scores.dtype, tuple(found.scores.shape)) == (torch.float32, (6, 5))
        assert (found.exact.dtype, tuple(found.exact.shape)) == (torch.bool, (6,))
        assert (found.bound.dtype, tuple(found.bound.shape)) == (torch.float32, (6,))
        present = found.items >= 0
        assert bool(present[:, 0].all())
        assert torch.equal(present, found.scores > -torch.inf)
        assert bool((found.scores[:, 1:] <= found.scores[:, :-1]).all())
        tied = (found.scores[:, 1:] == found.scores[:, :-1]) & present[:, 1:]
        assert bool((found.items[:, 1:] > found.items[:, :-1])[tied].all())

    def test_no_users(self):
        found = self.search(users_of(0, self.items, 0))
        assert tuple(found.items.shape) == (0, 5)
        assert tuple(found.codes.shape) == (0, 5, self.num_levels)
        assert found.exact.numel() == found.bound.numel() == 0

    def test_empty_histories_get_an_answer(self):
        found = self.search(Batch(Jagged.from_rows([[], []])))
        assert bool((found.items[:, 0] >= 0).all())

    def test_a_user_does_not_depend_on_the_others(self):
        batch = users_of(6, self.items, 2)
        together = self.search(batch)
        for user, row in enumerate(batch.items.rows()):
            alone = self.search(Batch(Jagged.from_rows([row])))
            assert torch.equal(alone.items[0], together.items[user])
            torch.testing.assert_close(alone.scores[0], together.scores[user])

    def test_filters_are_never_violated(self):
        batch = users_of(6, self.items, 3)
        generator = torch.Generator().manual_seed(4)
        allowed = torch.rand(6, self.items, generator=generator) < 0.3
        exclude = Jagged.from_rows([torch.randint(self.items, (7,), generator=generator) for _ in range(6)])
        found = self.search(batch, allowed=allowed, exclude=exclude)
        for user in range(6):
            shown = found.items[user][found.items[user] >= 0]
            assert shown.numel() > 0
            assert bool(allowed[user, shown].all())
            assert not bool(torch.isin(shown, exclude[user]).any())

    def test_no_gradient_is_kept(self):
        assert not self.search(users_of(2, self.items, 0)).scores.requires_grad

    @pytest.mark.threads
    def test_the_result_does_not_depend_on_the_number_of_threads(self, threads):
        batch = users_of(6, self.items, 5)
        one = self.search(batch)
        threads(2)
        two = self.search(batch)
        assert torch.equal(one.items, two.items)
        torch.testing.assert_close(one.scores, two.scores)

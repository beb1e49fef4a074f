from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.tokenizers import CollaborativeConfig, spectral_vectors
from shared.tokenizer_suite import TokenizerSuite


def communities(groups=4, size=12, users=200, noise=0.05, seed=0):
    """Users who choose within one group of items, but for some noise; the group of item i is i mod groups."""
    generator = torch.Generator().manual_seed(seed)
    mine = torch.randint(groups, (users, 1), generator=generator)
    items = torch.randint(size, (users, 8), generator=generator) * groups + mine
    stray = torch.rand(users, 8, generator=generator) < noise
    items = torch.where(stray, torch.randint(groups * size, (users, 8), generator=generator), items)
    return Jagged.from_lengths(items.flatten(), torch.full((users,), 8))


class TestCollaborative(TokenizerSuite):
    reads_features = False

    def config(self, folder):
        return CollaborativeConfig(codebook_sizes=(4, 3), width=8)

    def test_communities_share_their_first_code(self):
        tokenizer = CollaborativeConfig(codebook_sizes=(4, 4), width=4).build()
        tokenizer.fit(num_items=48, histories=communities(), seed=1)
        pairs = torch.stack([torch.arange(48) % 4, tokenizer.item_codes[:, 0].long()], 1)
        assert len(pairs.unique(dim=0)) == 4
        assert tokenizer.report()["collision_rate"] == 0

    def test_items_nobody_chose_have_codes_too(self):
        tokenizer = CollaborativeConfig(codebook_sizes=(4, 4), width=8).build()
        tokenizer.fit(num_items=80, histories=communities())
        assert tuple(tokenizer.item_codes.shape) == (80, 3)
        assert len(tokenizer.item_codes.unique(dim=0)) == 80
        nobody = CollaborativeConfig(codebook_sizes=(2, 2)).build()
        nobody.fit(num_items=5, histories=Jagged.from_rows([[], [3]]))
        assert tuple(nobody.item_codes.shape) == (5, 3)

    def test_histories_are_asked_for(self):
        tokenizer = CollaborativeConfig().build()
        with pytest.raises(InvalidValueError, match=r"collaborative: histories must be given .* got None"):
            tokenizer.fit(num_items=5)
        with pytest.raises(InvalidValueError, match=r"histories must hold item ids in \[0, 5\), got 5"):
            tokenizer.fit(num_items=5, histories=Jagged.from_rows([[1, 5]]))
        with pytest.raises(InvalidTypeError, match="histories must be a Jagged of item ids, got list"):
            tokenizer.fit(num_items=5, histories=[[1, 2]])

    def test_messages(self):
        with pytest.raises(InvalidValueError, match="CollaborativeConfig: width must be at least 1, got 0"):
            CollaborativeConfig(width=0)
        with pytest.raises(InvalidTypeError, match="CollaborativeConfig: rounds must be an int, got '3'"):
            CollaborativeConfig(rounds="3")


def test_spectral_vectors_are_the_eigenvectors():
    histories = communities(noise=0.3)
    places = spectral_vectors(histories, 48, width=3, rounds=200)
    counts = torch.zeros(48, 48, dtype=torch.float64)
    for user in range(len(histories)):
        row = histories.values[histories.offsets[user] : histories.offsets[user + 1]].tolist()
        for i, first in enumerate(row):
            for second in row[i + 1 :]:
                if first != second:
                    counts[first, second] += 1
                    counts[second, first] += 1
    scale = counts.sum(1).rsqrt()
    vectors = torch.linalg.eigh(counts * scale[:, None] * scale).eigenvectors[:, -3:].flip(1)
    wanted = torch.nn.functional.normalize(vectors, dim=1)
    assert torch.allclose(places.double() @ places.double().T, wanted @ wanted.T, atol=1e-3)

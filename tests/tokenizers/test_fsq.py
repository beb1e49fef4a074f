from __future__ import annotations

import pytest
import torch

from genrec_fast.base.errors import DivergedError, InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import FSQConfig
from shared.catalogs import wide
from shared.tokenizer_suite import TokenizerSuite


class TestFSQ(TokenizerSuite):
    smallest = 1

    def config(self, folder):
        return FSQConfig(steps=((4, 3), (3, 3)), hidden_size=16, training_steps=60, batch_size=32)


class TestFSQOfComponents(TokenizerSuite):
    smallest = 1
    random = False

    def config(self, folder):
        return FSQConfig(steps=((4, 3), (3, 3)), encoder="pca")

    def test_steps_are_equally_full(self):
        x = torch.randn(1200, 6, generator=torch.Generator().manual_seed(0))
        tokenizer = FSQConfig(steps=((4,), (3,)), encoder="pca", dedup="none").build(wide(6))
        tokenizer.fit(x)
        assert tokenizer.item_codes[:, 0].bincount().tolist() == [300] * 4
        assert tokenizer.item_codes[:, 1].bincount().tolist() == [400] * 3
        assert tokenizer.report()["codes_used"] == [4, 3]


def test_training_reconstructs_and_uses_the_codes():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(800, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    tokenizer = FSQConfig(steps=((6, 6), (6,)), hidden_size=64, training_steps=400, dedup="none").build(wide(12))
    tokenizer.fit(x)
    error = (tokenizer.decode(tokenizer.item_codes) - x).square().mean()
    assert tokenizer.mse == pytest.approx(float(error), rel=1e-4)
    assert tokenizer.mse < 0.2 * float(x.var())
    assert min(tokenizer.report()["codebook_use"]) > 0.7


def test_codes_are_mixed_numbers():
    tokenizer = FSQConfig(steps=((4, 3), (5,)), encoder="pca").build(wide(3))
    steps = torch.tensor([[3, 2, 4], [1, 0, 2]])
    assert tokenizer._codes(steps).tolist() == [[11, 4], [3, 2]]


def test_messages():
    with pytest.raises(InvalidValueError, match="FSQConfig: steps must be integers of at least 2, got 1"):
        FSQConfig(steps=((1, 4),))
    with pytest.raises(InvalidValueError, match=r"steps must be tuples of integers, one per level, got \(\(\),\)"):
        FSQConfig(steps=((),))
    with pytest.raises(InvalidTypeError, match=r"FSQConfig: steps must be a tuple of tuple of int, got \(8,\)"):
        FSQConfig(steps=(8,))
    with pytest.raises(InvalidValueError, match="FSQConfig: encoder must be 'mlp' or 'pca', got 'no'"):
        FSQConfig(encoder="no")
    with pytest.raises(InvalidValueError, match="FSQConfig: feature_dim must be at least 9, got 4"):
        FSQConfig(encoder="pca").build(wide(4))
    tokenizer = FSQConfig(steps=((4,),), training_steps=20, learning_rate=1e30).build(wide(3))
    with pytest.raises(DivergedError, match=r"fsq: loss must be finite, got .* at step"):
        tokenizer.fit(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)))

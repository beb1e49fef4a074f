from __future__ import annotations

import pytest
import torch

from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.layouts import PlainConfig
from shared.catalogs import coded

CODES = torch.tensor([[0, 1], [1, 0], [2, 2]])
FEATURES = torch.arange(6.0).view(3, 2)


def test_looks_up_codes_targets_and_features():
    layout = PlainConfig(use_features=True, use_users=True).build(coded(CODES, (3, 3), FEATURES))
    batch = layout(Batch(Jagged.from_rows([[2, 0], [1]]), torch.tensor([-1, 1, 2]), users=torch.tensor([5, 6])))
    assert batch.codes.tolist() == [[2, 2], [0, 1], [1, 0]]
    assert batch.target_codes.tolist() == [[1, 0], [2, 2]]
    assert batch.features.tolist() == [[4.0, 5.0], [0.0, 1.0], [2.0, 3.0]]
    assert batch.users.tolist() == [5, 6]
    assert (layout.num_items, layout.feature_dim) == (3, 2)


def test_gives_only_what_was_asked_for():
    layout = PlainConfig().build(coded(CODES, (3, 3), FEATURES))
    batch = layout(Batch(Jagged.from_rows([[2, 0], []]), users=torch.tensor([5, 6])))
    assert batch.features is None
    assert batch.users is None
    assert batch.target_codes is None
    assert layout.feature_dim is None


@pytest.mark.parametrize("item", [-1, 3])
def test_unknown_items(item):
    layout = PlainConfig().build(coded(CODES, (3, 3)))
    with pytest.raises(InvalidValueError, match=rf"items must be item ids in \[0, 3\), got {item}"):
        layout(Batch(Jagged.from_rows([[0, item]])))


def test_unknown_target():
    layout = PlainConfig().build(coded(CODES, (3, 3)))
    with pytest.raises(InvalidValueError, match=r"targets must be item ids in \[0, 3\), got 9"):
        layout(Batch(Jagged.from_rows([[0, 1]]), torch.tensor([-1, 9])))


def test_bad_tables():
    for dtype in (torch.uint8, torch.bool, torch.float32, torch.int16):
        batch = Batch(Jagged(torch.ones(2, dtype=dtype), torch.tensor([0, 2])))
        with pytest.raises(InvalidTypeError, match=f"Plain: items must be .*, got {dtype}"):
            PlainConfig().build(coded(CODES, (3, 3)))(batch)
    with pytest.raises(InvalidValueError, match="features must be given when use_features is set"):
        PlainConfig(use_features=True).build(coded(CODES, (3, 3)))
    with pytest.raises(InvalidValueError, match="Plain: catalog must have item_codes, got None"):
        PlainConfig().build(Catalog(num_items=3))


def test_valid_codes_follow_the_target_prefix():
    codes = torch.tensor([[0, 1], [1, 0], [0, 2]])
    layout = PlainConfig(use_valid_codes=True).build(coded(codes, (3, 4)))
    batch = layout(Batch(Jagged.from_rows([[2, 0]]), torch.tensor([1, 2])))
    first, second = batch.valid_codes
    assert first.tolist() == [[True, True, False], [True, True, False]]
    assert second.tolist() == [[True, False, False, False], [False, True, True, False]]
    assert layout(Batch(Jagged.from_rows([[2, 0]]))).valid_codes is None


def test_the_trie_behind_valid_codes_follows_them_to_another_device():
    layout = PlainConfig(use_valid_codes=True).build(coded(CODES, (3, 3)))
    batch = Batch(Jagged.from_rows([[0]]), torch.tensor([1]))
    assert layout(batch).valid_codes[1].tolist() == [[True, False, False]]
    assert layout._trie.tokens[0].device.type == "cpu"
    assert "_trie" not in layout.to("meta").__dict__

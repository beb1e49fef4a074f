from __future__ import annotations

import pytest
import torch

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.layouts import PlainConfig
from genrec_fast.types import Batch, Jagged

CODES = torch.tensor([[0, 1], [1, 0], [2, 2]])
FEATURES = torch.arange(6.0).view(3, 2)


def test_looks_up_codes_targets_and_features():
    layout = PlainConfig(use_features=True, use_users=True).build(CODES, (3, 3), FEATURES)
    batch = layout(Batch(Jagged.from_rows([[2, 0], [1]]), torch.tensor([-1, 1, 2]), users=torch.tensor([5, 6])))
    assert batch.codes.tolist() == [[2, 2], [0, 1], [1, 0]]
    assert batch.target_codes.tolist() == [[1, 0], [2, 2]]
    assert batch.features.tolist() == [[4.0, 5.0], [0.0, 1.0], [2.0, 3.0]]
    assert batch.users.tolist() == [5, 6]
    assert (layout.num_items, layout.feature_dim) == (3, 2)


def test_gives_only_what_was_asked_for():
    layout = PlainConfig().build(CODES, (3, 3), FEATURES)
    batch = layout(Batch(Jagged.from_rows([[2, 0], []]), users=torch.tensor([5, 6])))
    assert batch.features is None
    assert batch.users is None
    assert batch.target_codes is None
    assert layout.feature_dim is None


@pytest.mark.parametrize("item", [-1, 3])
def test_unknown_items(item):
    layout = PlainConfig().build(CODES, (3, 3), None)
    with pytest.raises(InvalidValueError, match=rf"items must be item ids in \[0, 3\), got {item}"):
        layout(Batch(Jagged.from_rows([[0, item]])))


def test_unknown_target():
    layout = PlainConfig().build(CODES, (3, 3), None)
    with pytest.raises(InvalidValueError, match=r"targets must be item ids in \[0, 3\), got 9"):
        layout(Batch(Jagged.from_rows([[0, 1]]), torch.tensor([-1, 9])))


def test_bad_tables():
    for dtype in (torch.uint8, torch.bool, torch.float32, torch.int16):
        batch = Batch(Jagged(torch.ones(2, dtype=dtype), torch.tensor([0, 2])))
        with pytest.raises(InvalidTypeError, match=f"Plain: items must be .*, got {dtype}"):
            PlainConfig().build(CODES, (3, 3), None)(batch)
    for sizes, kind in (((3, 2.5), InvalidTypeError), ((3, 1 << 64), InvalidValueError), (3, InvalidTypeError)):
        with pytest.raises(kind, match="Plain: codebook_sizes must be "):
            PlainConfig().build(CODES, sizes, None)
    with pytest.raises(InvalidTypeError, match="Plain: features must be a float tensor"):
        PlainConfig().build(CODES, (3, 3), 0)
    with pytest.raises(InvalidTypeError, match="item_codes must be integers"):
        PlainConfig().build(CODES.float(), (3, 3), None)
    with pytest.raises(InvalidValueError, match=r"item_codes must be \[N, 3\]"):
        PlainConfig().build(CODES, (3, 3, 3), None)
    with pytest.raises(InvalidValueError, match=r"item_codes of level 1 must be in \[0, 2\), got 2 for item 2"):
        PlainConfig().build(CODES, (3, 2), None)
    with pytest.raises(InvalidValueError, match="features must be given when use_features is set"):
        PlainConfig(use_features=True).build(CODES, (3, 3), None)
    with pytest.raises(InvalidValueError, match="features must have one row per item = 3, got 2"):
        PlainConfig(use_features=True).build(CODES, (3, 3), FEATURES[:2])


def test_valid_codes_follow_the_target_prefix():
    codes = torch.tensor([[0, 1], [1, 0], [0, 2]])
    layout = PlainConfig(use_valid_codes=True).build(codes, (3, 4), None)
    batch = layout(Batch(Jagged.from_rows([[2, 0]]), torch.tensor([1, 2])))
    first, second = batch.valid_codes
    assert first.tolist() == [[True, True, False], [True, True, False]]
    assert second.tolist() == [[True, False, False, False], [False, True, True, False]]
    assert layout(Batch(Jagged.from_rows([[2, 0]]))).valid_codes is None


def test_valid_codes_follow_the_catalog_and_the_device():
    """The trie behind them is made once; codes that are loaded or moved need another one."""
    layout = PlainConfig(use_valid_codes=True).build(CODES, (3, 3), None)
    batch = Batch(Jagged.from_rows([[0]]), torch.tensor([1]))
    assert layout(batch).valid_codes[1].tolist() == [[True, False, False]]
    layout.load_state_dict({"item_codes": torch.tensor([[0, 1], [2, 1], [2, 2]], dtype=torch.int32)})
    after = layout(batch)
    assert after.target_codes.tolist() == [[2, 1]]
    assert after.valid_codes[0].tolist() == [[True, False, True]]
    assert after.valid_codes[1].tolist() == [[False, True, True]]
    assert layout._trie.tokens[0].device.type == "cpu"
    moved = layout.to("meta")
    assert "_trie" not in moved.__dict__

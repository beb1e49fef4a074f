from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.backbones import DiscRecConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from shared.backbone_suite import SIZES, SearchedSuite, batch_of

CONFIG = DiscRecConfig(
    width=16,
    num_heads=2,
    head_width=8,
    num_layers=1,
    hidden=32,
    dropout=0.0,
    num_user_tokens=0,
    max_items=6,
    branch_heads=2,
    branch_hidden=24,
)


class TestDiscRec(SearchedSuite):
    config = CONFIG
    targets = "last"


class TestWithUsers(SearchedSuite):
    config = dataclasses.replace(CONFIG, num_user_tokens=3)
    targets = "last"


def by_hand(branch, x, slots, causal):
    """The mixture of the codes of one item."""
    normed = branch.attention_norm(x + branch.slots.weight[slots])
    q, k, v = branch.qkv(normed).view(len(x), 3, 2, 8).permute(1, 2, 0, 3)
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1).reshape(len(x), 16)
    inner = branch.mlp_norm(normed + seen)
    other = inner + branch.mlp_out(F.relu(branch.mlp_in(inner)))
    out = []
    for own, collaborative in zip(x, other, strict=True):
        gates = torch.stack([branch.gates[0] @ own, branch.gates[1] @ collaborative]).softmax(0)
        out.append(gates[0] * own + gates[1] * collaborative)
    return torch.stack(out)


@pytest.mark.parametrize("users", [0, 3])
def test_codes_see_their_own_item_alone(users):
    suite = TestDiscRec()
    suite.config = dataclasses.replace(CONFIG, num_user_tokens=users)
    layout, backbone = suite.parts()
    batch = layout(Batch(Jagged.from_rows([[3, 4], [], [5]]), users=torch.arange(3)))
    tokens, offsets = backbone._tokens(batch)
    x = backbone.tokens(tokens)
    found, at, parts = backbone._read(x, offsets), 0, []
    for items in (2, 0, 1):
        rows = [([0], 1)] * bool(users) + [([1, 2, 3], 3)] * items + [([4], 1)]
        for slots, length in rows:
            parts.append(by_hand(backbone.read_branch, x[at : at + length], slots, causal=False))
            at += length
    torch.testing.assert_close(found, torch.cat(parts))


def test_written_codes_see_those_before_them():
    layout, backbone = TestDiscRec().parts()
    batch = layout(batch_of([2], targets="last"))
    kept = {}
    backbone.written_branch.register_forward_hook(lambda module, given, out: kept.update(x=given[0], out=out))
    backbone.level_logits(batch)
    assert kept["x"].shape[0] == len(SIZES)
    torch.testing.assert_close(kept["out"], by_hand(backbone.written_branch, kept["x"], [0, 1, 2], causal=True))


def test_heads_divide_the_width():
    with pytest.raises(InvalidValueError, match="DiscRecConfig"):
        dataclasses.replace(CONFIG, branch_heads=3)

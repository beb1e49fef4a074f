from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.nn.branches import Seen
from genrec_fast.nn.packed import Packing, equal_rows, row_positions
from genrec_fast.nn.transformer import Block


def test_a_block_is_the_formula_on_each_row():
    torch.manual_seed(0)
    block, x, offsets = Block(16, 2, 32, 0.1).eval(), torch.randn(9, 16), torch.tensor([0, 4, 4, 9])
    found = block(x, Packing(offsets, row_positions(offsets), 5))
    for begin, end in ((0, 4), (4, 9)):
        row = x[begin:end]
        q, k, v = block.qkv(block.attention_norm(row)).view(-1, 3, 2, 8).permute(1, 2, 0, 3)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(-1, 16)
        row = row + block.attention_out(seen)
        row = row + block.mlp_out(F.relu(block.mlp_in(block.mlp_norm(row))))
        torch.testing.assert_close(found[begin:end], row)


def test_rows_can_go_on_from_their_past():
    torch.manual_seed(0)
    block, x = Block(16, 2, 32, 0.1).eval(), torch.randn(3, 5, 16)
    whole = block(x.flatten(0, 1), equal_rows(3, 5, x.device)).view(3, 5, 16)
    three = torch.full((3,), 3)
    begun = Seen((), torch.arange(3).expand(3, 1, 3), three)
    rows = Packing(torch.arange(4) * 3, torch.arange(3).repeat(3), 5, past=begun)
    first = block(x[:, :3].flatten(0, 1), rows).view(3, 3, 16)
    past, places = Seen(begun.known, torch.arange(5).expand(3, 1, 5), three + 2), torch.tensor([3, 4]).repeat(3)
    rows = Packing(torch.arange(4) * 2, places, 5, past=past, kv_offsets=torch.arange(4) * 5)
    rest = block(x[:, 3:].flatten(0, 1), rows).view(3, 2, 16)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)


def test_heads_must_divide_the_width():
    with pytest.raises(InvalidValueError, match="num_heads must divide width = 10, got 3"):
        Block(10, 3, 8, 0.0)

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genrec_fast.errors import InvalidValueError
from genrec_fast.nn.transformer import SHORT, Block, causal_attention


@pytest.mark.parametrize("length", [1, 3, SHORT, SHORT + 1])
def test_causal_attention_equals_torch(length):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8) for _ in range(3))
    torch.testing.assert_close(causal_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_later_queries_see_all_earlier_keys():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 6, 8) for _ in range(3))
    torch.testing.assert_close(causal_attention(q[:, :, 4:], k, v), causal_attention(q, k, v)[:, :, 4:])


def test_a_block_can_go_on_from_its_past():
    torch.manual_seed(0)
    block, x = Block(16, 2, 32, 0.1).eval(), torch.randn(3, 5, 16)
    whole, _ = block(x)
    first, past = block(x[:, :3])
    rest, _ = block(x[:, 3:], past)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)


def test_heads_must_divide_the_width():
    with pytest.raises(InvalidValueError, match="num_heads must divide width = 10, got 3"):
        Block(10, 3, 8, 0.0)

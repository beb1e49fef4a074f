"""The pieces of a T5 transformer: root-mean-square norm, relative position bias, attention, feed-forward."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.nn.dropout import Dropout

__all__ = ["Attention", "FeedForward", "RMSNorm", "RelativePositionBias"]


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``, in float32 (T5's layer norm: no mean, no bias)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class RelativePositionBias(nn.Module):
    """A learned bias per head and bucket of the distance between query and key.

    Half of the buckets are exact distances, the others grow logarithmically up to ``max_distance``; a bidirectional
    bias gives half of all buckets to keys behind the query.

    Source: T5 (arXiv:1910.10683, section 2.1).
    """

    def __init__(self, num_heads: int, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.bidirectional, self.num_buckets, self.max_distance = bidirectional, num_buckets, max_distance
        self.table = nn.Embedding(num_buckets, num_heads)

    def forward(self, num_queries: int, num_keys: int) -> Tensor:
        """``[1, H, S, T]``; the queries are the last S of the T positions."""
        device = self.table.weight.device
        queries = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
        ahead = torch.arange(num_keys, device=device)[None, :] - queries
        bias: Tensor = self.table(self._bucket(ahead))
        return bias.permute(2, 0, 1).unsqueeze(0)

    def _bucket(self, ahead: Tensor) -> Tensor:
        buckets, base = self.num_buckets, torch.zeros_like(ahead)
        if self.bidirectional:
            buckets //= 2
            base = (ahead > 0).to(ahead.dtype) * buckets
            distance = ahead.abs()
        else:
            distance = (-ahead).clamp(min=0)
        exact = buckets // 2
        scale = (buckets - exact) / math.log(self.max_distance / exact)
        grown = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).to(ahead.dtype)
        return base + torch.where(distance < exact, distance, grown.clamp(max=buckets - 1))


class Attention(nn.Module):
    """T5's multi-head attention: no biases, no scaling of the scores, a position bias added to them.

    Keys and values are made by ``project`` once and handed in, so that all beams of a user share their user's.
    """

    def __init__(self, width: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_width
        self.queries = nn.Linear(width, inner, bias=False)
        self.keys_values = nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., T, D]`` -> keys and values ``[..., H, T, head_width]``."""
        keys, values = self.keys_values(x).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return keys.transpose(-3, -2), values.transpose(-3, -2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """``x [..., S, D]`` over keys and values ``[..., H, T, head_width]``; bias broadcasts to ``[..., H, S, T]``."""
        queries = self.queries(x).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)
        # Plain products: over histories of a hundred tokens a CPU's fused kernel, which must read the bias, is slower.
        exact = torch.promote_types(queries.dtype, torch.float32)
        scores = torch.matmul(queries, keys.transpose(-1, -2)).to(exact)
        seen = torch.matmul((scores if bias is None else scores + bias).softmax(-1).to(values.dtype), values)
        out: Tensor = self.out(seen.transpose(-3, -2).flatten(-2))
        return out


class FeedForward(nn.Module):
    """``relu(x W_in) W_out`` with dropout between, no biases."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.dropout(F.relu(self.into(x))))
        return out

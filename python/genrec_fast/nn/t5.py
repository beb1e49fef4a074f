"""The pieces of a T5 transformer: root-mean-square norm, relative position bias, attention, feed-forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.nn.branches import attended
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.packed import Packing
from genrec_fast.ops import T5Bias, residual_norm
from genrec_fast.ops.beam_attention import runs_on_card
from genrec_fast.ops.residual_norm import MOST_ON_CARD


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``, in float32 (T5's layer norm: no mean, no bias).

    Without gradients ``ops.residual_norm`` does it where kernels for cards run, in one launch.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and x.dtype == self.weight.dtype != torch.float64 and self._is_for_a_card(x):
            return residual_norm(x, self.weight, epsilon=self.eps)[0]
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def _is_for_a_card(self, x: Tensor) -> bool:
        graded = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        return not graded and x.shape[1] <= MOST_ON_CARD and runs_on_card(x)


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

    def forward(self) -> T5Bias:
        """What ``ops.jagged_attention`` adds to its scores."""
        return T5Bias(self.table.weight, self.bidirectional, self.max_distance)


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
        """``[E, D]`` -> keys and values ``[E, H, head_width]``."""
        keys, values = self.keys_values(x).unflatten(-1, (2, self.num_heads, -1)).unbind(1)
        return keys, values

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rows: Packing,
        *,
        causal: bool,
        bias: T5Bias | None = None,
        layer: int = 0,
    ) -> Tensor:
        """``x [E, D]`` over its rows' keys and values ``[E_kv, H, head_width]`` -> ``[E, D]``.

        ``layer``: under which number ``rows.past``, where there is one, knows these keys and values.
        """
        queries = self.queries(x).unflatten(-1, (self.num_heads, -1))
        seen = attended(
            queries, keys, values, rows, layer, causal=causal, alpha=1.0, bias=bias, max_seq_len=rows.max_seq_len
        )
        out: Tensor = self.out(seen.flatten(1))
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

"""The twin of ``ops.topk_inner_product``: plain torch, slow, and the specification of every bit."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops._filters import hide
from genrec_fast.ops.lanes import lane_sum

_BLOCK = 1 << 22  # float64 products held at once


def inner_products(queries: Tensor, table: Tensor, bias: Tensor | None) -> Tensor:
    """float32 ``[B, N]``: float64 products, summed in 16 lanes, plus the bias, rounded once."""
    wide = table.double()
    rows = max(1, _BLOCK // max(1, table.numel()))
    blocks = [lane_sum(block.double().unsqueeze(1) * wide) for block in queries.split(rows)]
    exact = torch.cat(blocks) if blocks else wide.new_empty(0, len(table))
    return (exact if bias is None else exact + bias.double()).float()


def topk_inner_product(
    queries: Tensor,
    table: Tensor,
    k: int,
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
    exclude_ids: Tensor | None = None,
    exclude_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See ``ops.topk_inner_product``: a stable sort of all scores."""
    scores = hide(inner_products(queries.float(), table.float(), bias), allowed, exclude_ids, exclude_offsets)
    best, ids = torch.sort(scores, dim=1, descending=True, stable=True)
    short = max(0, k - table.shape[0])
    best = torch.nn.functional.pad(best[:, :k], (0, short), value=-torch.inf).contiguous()
    ids = torch.nn.functional.pad(ids[:, :k], (0, short))
    return best, torch.where(best > -torch.inf, ids, -1)

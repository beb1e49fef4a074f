"""The twin of ``ops.topk_code_sums``: plain torch, slow, and the specification of every bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops._filters import hide


def code_sums(logprobs: Tensor, item_codes: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """float32 ``[B, n]``: the scores of each item's codes, added level by level, from 0 on."""
    total = logprobs.new_zeros(logprobs.shape[0], item_codes.shape[0])
    for scores, codes in zip(logprobs.split(list(codebook_sizes), 1), item_codes.long().unbind(1), strict=True):
        total = total + scores[:, codes]
    return total.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)  # NaN: sums beyond float32


def topk_code_sums(
    logprobs: Tensor,
    item_codes: Tensor,
    k: int,
    codebook_sizes: Sequence[int],
    allowed: Tensor | None = None,
    exclude_ids: Tensor | None = None,
    exclude_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See ``ops.topk_code_sums``: a stable sort of all scores."""
    scores = hide(code_sums(logprobs, item_codes, codebook_sizes), allowed, exclude_ids, exclude_offsets)
    best, ids = torch.sort(scores, dim=1, descending=True, stable=True)
    short = max(0, k - item_codes.shape[0])
    best = torch.nn.functional.pad(best[:, :k], (0, short), value=-torch.inf).contiguous()
    ids = torch.nn.functional.pad(ids[:, :k], (0, short))
    return best, torch.where(best > -torch.inf, ids, -1)

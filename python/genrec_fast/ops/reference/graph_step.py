"""The twin of ``ops.graph_step``: plain torch, slow, and the specification of every bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops.reference.topk_code_sums import code_sums


def graph_step(
    logprobs: Tensor,
    item_codes: Tensor,
    neighbours: Tensor,
    items: Tensor,
    num_beams: int,
    codebook_sizes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``ops.graph_step``: user by user, a stable sort of the neighbours' scores."""
    shape = logprobs.shape[0], num_beams
    reached = torch.full(shape, -1, dtype=torch.int32, device=logprobs.device)
    scores = logprobs.new_full(shape, -torch.inf)
    num_seen = torch.zeros(shape[0], dtype=torch.int32, device=logprobs.device)
    for user, own in enumerate(items.long()):
        near = neighbours[own[own >= 0]].flatten().long()
        seen = near[near >= 0].unique()
        sums = code_sums(logprobs[user : user + 1], item_codes[seen], codebook_sizes)[0]
        best, order = sums.sort(descending=True, stable=True)
        count = min(num_beams, int((best > -torch.inf).sum()))
        scores[user, :count], reached[user, :count] = best[:count], seen[order[:count]].int()
        num_seen[user] = len(seen)
    return reached, scores, num_seen

"""The twin of ``ops.expand_rows``: plain torch, slow, and the specification of every bit."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops.trie_offsets import unpack_offsets


def expand_rows(
    rows: Tensor,
    codes: Tensor,
    scores: Tensor,
    ranks: Tensor,
    leaf_bases: Tensor,
    leaf_deltas: Tensor,
    leaf_items: Tensor,
    k: int,
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """User by user, two stable sorts of the items of the user's rows: by item, then by their rows' ranks."""
    offsets = unpack_offsets(leaf_bases, leaf_deltas)
    items = rows.new_full((rows.shape[0], k), -1, dtype=torch.int64)
    out_codes = codes.new_full((*items.shape, codes.shape[2]), -1)
    out_scores = scores.new_full(items.shape, -torch.inf)
    for user, own in enumerate(rows.tolist()):
        found = [
            (int(item), beam)
            for beam, row in enumerate(own)
            if row >= 0
            for item in leaf_items[offsets[row] : offsets[row + 1]]
        ]
        item, beam = torch.tensor(found, dtype=torch.int64, device=rows.device).reshape(-1, 2).unbind(1)
        kept = torch.ones_like(item, dtype=torch.bool)
        if allowed is not None:
            kept &= allowed[user if allowed.shape[0] > 1 else 0][item]
        if exclude_ids is not None and exclude_offsets is not None:
            kept &= ~torch.isin(item, exclude_ids[exclude_offsets[user] : exclude_offsets[user + 1]])
        item, order = item[kept].sort()
        beam = beam[kept][order]
        best = ranks[user, beam].sort(descending=True, stable=True).indices[:k]
        item, beam = item[best], beam[best]
        items[user, : len(item)] = item
        out_codes[user, : len(item)] = codes[user, beam]
        out_scores[user, : len(item)] = scores[user, beam]
    return items, out_codes, out_scores

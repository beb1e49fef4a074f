"""The twin of ``ops.completable_codes``: plain torch, slow, and the specification of every bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.ops._filters import hide


def completable_codes(
    written: Tensor,
    item_codes: Tensor,
    codebook_sizes: Sequence[int],
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> Tensor:
    """See ``ops.completable_codes``: row by row, every item is compared."""
    users, beams, levels = written.shape
    codes, num_items = item_codes.long(), item_codes.shape[0]
    out = torch.zeros(users, beams, sum(codebook_sizes), dtype=torch.bool, device=written.device)
    found = hide(torch.zeros(users, num_items, device=written.device), allowed, exclude_ids, exclude_offsets) == 0
    for user in range(users if beams else 0):
        for beam in range(beams):
            row = written[user, beam].long()
            fits = codes[found[user] & ((row == -1) | (row == codes)).all(1)]
            base = 0
            for level in range(levels):
                if int(row[level]) < 0:
                    out[user, beam, base + fits[:, level]] = True
                base += codebook_sizes[level]
    return out

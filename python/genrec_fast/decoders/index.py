"""Search in a faiss index, with filters that faiss does not know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.decoders.candidates import scores_of_pairs

_INNER_PRODUCT = 0  # faiss.METRIC_INNER_PRODUCT; faiss itself need not be imported here


def is_flat(index: Any) -> bool:
    """Whether the index compares every query with every vector."""
    return type(index).__name__ in ("IndexFlat", "IndexFlatIP")


def search_index(
    index: Any, users: Tensor, table: Tensor, k: int, allowed: Tensor | None, exclude: Jagged | None
) -> tuple[Tensor, Tensor]:
    """Scores float32 ``[B, k]`` and ids ``[B, k]`` of what the index finds, best first by the table's own scores.

    Raises:
        InvalidTypeError: it is no faiss index.
        InvalidValueError: it does not hold the N vectors of the table under the inner product.
    """
    count, num_items, width = users.shape[0], table.shape[0], table.shape[1]
    for name in ("search", "ntotal", "d", "metric_type"):
        if not hasattr(index, name):
            raise InvalidTypeError(f"retrieve: index must be a faiss index, got {type(index).__name__}")
    if (index.ntotal, index.d, index.metric_type) != (num_items, width, _INNER_PRODUCT):
        raise InvalidValueError(
            f"retrieve: index must hold {num_items} vectors of width {width} under the inner product (metric 0), "
            f"got {index.ntotal} of width {index.d}, metric {index.metric_type}"
        )
    if not bool(users.isfinite().all()):
        raise InvalidValueError("retrieve: users must be finite, got NaN or infinity")
    best = torch.full((count, k), -torch.inf, device=users.device)
    ids = torch.full((count, k), -1, dtype=torch.int64, device=users.device)
    if count == 0:
        return best, ids
    if exclude is None:
        keys, longest = None, 0
    else:
        keys = (exclude.row_index() * num_items + exclude.values.long()).unique()
        longest = int(exclude.lengths.max())
    queries = users.cpu().contiguous().numpy()
    fetched = min(num_items, k + longest)
    while True:
        found = torch.from_numpy(index.search(queries, fetched)[1]).to(users.device)
        kept = found >= 0
        safe = found.clamp(min=0)
        if allowed is not None:
            kept &= allowed.expand(count, num_items).gather(1, safe)
        if keys is not None and keys.numel():
            asked = torch.arange(count, device=users.device)[:, None] * num_items + safe
            place = torch.searchsorted(keys, asked).clamp_(max=keys.numel() - 1)
            kept &= keys[place] != asked
        if fetched >= num_items or int(kept.sum(1).min()) >= min(k, num_items):
            break
        fetched = min(num_items, 4 * fetched)
    rows, columns = kept.nonzero(as_tuple=True)
    scores = torch.full(found.shape, -torch.inf, device=users.device)
    scores[rows, columns] = scores_of_pairs(users, table, rows, found[rows, columns])
    # By id, then stably by score: ties go to the lower id.
    order = torch.where(kept, found, num_items).sort(dim=1, stable=True).indices
    scores, found = scores.gather(1, order), found.gather(1, order)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    most = min(k, found.shape[1])
    best[:, :most], ids[:, :most] = scores[:, :most], found.gather(1, order)[:, :most]
    return best, torch.where(best > -torch.inf, ids, -1)

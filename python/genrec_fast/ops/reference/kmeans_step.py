"""The twin of ``ops.kmeans_step``: plain torch, slow, and the specification of every bit."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.ops.lanes import lane_sum
from genrec_fast.ops.reference.rq_encode import scores

ROWS = 1024  # distances of this many rows are summed in lanes, then block after block


def kmeans_step(
    x: Tensor,
    centroids: Tensor,
    sums: Tensor | None = None,
    counts: Tensor | None = None,
    inertia: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``ops.kmeans_step``; ``sums``, ``counts`` and ``inertia`` of the rows before are added to."""
    book = centroids.float()
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    sums = book.new_zeros(book.shape, dtype=torch.float64) if sums is None else sums.clone()
    counts = labels.new_zeros(len(book)) if counts is None else counts.clone()
    inertia = sums.new_zeros(()) if inertia is None else inertia.clone()
    for first in range(0, len(x), ROWS):
        rows = x[first : first + ROWS].float()
        found = scores(rows, book).argmin(1)  # what rq_encode gives
        labels[first : first + ROWS] = found
        sums.index_add_(0, found, rows.double())  # on the CPU row after row
        counts += torch.bincount(found, minlength=len(book))
        inertia += lane_sum(lane_sum((rows.double() - book.double()[found]).square()))
    return labels.to(torch.int32), sums, counts, inertia

"""Prices of codes by Sinkhorn's iteration, one small transport problem per prefix, many at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.tokenizers.collisions.room import children, room

_CELLS = 1 << 21  # prefixes x items x codes at a time
_MOST_CELLS = 1 << 26  # of one prefix: 512 MiB a table
_CONVERGED = 1e-4  # change of log prices in a round, below which the order of codes no longer changes


def potentials(
    codes: Tensor,
    placed: Tensor,
    moving: Tensor,
    residual: Tensor,
    book: Tensor,
    epsilon: float,
    iterations: int,
) -> Tensor:
    """Prices of the last level's codes under each prefix that has moving items.

    ::

        cost = half squared distances, less their row's least, over half the largest;  free codes only
        repeat: log_u = -logsumexp_k(-(cost + price) / epsilon)                 each item has mass 1
                price = max(0, epsilon logsumexp_i(log_u - cost / epsilon))     each code takes at most 1

    epsilon goes down from 1, reached at half of the iterations: prices rise by about epsilon a round, and would not
    get far from 0 otherwise.

    Returns:
        float64 ``[nodes, K]`` in units of half squared distances; nodes as ``children`` numbers them.

    Raises:
        UnsupportedError: a prefix of more items x codes than are held at once.
    """
    size, level = book.shape[0], codes.shape[1] - 1
    own, keys, counts = children(codes, placed, moving, level, size)
    items = torch.bincount(own)
    order = torch.argsort(own, stable=True)
    begins = items.cumsum(0) - items
    vectors = book.double()
    half = vectors.square().sum(1) / 2
    free_codes = size - torch.bincount(keys // size, minlength=items.numel())
    items = torch.minimum(items, free_codes)  # at most these find a place
    prices = torch.zeros(items.numel(), size, dtype=torch.float64)
    nodes = torch.argsort(items, stable=True)
    nodes = nodes[items[nodes] > 1]  # one item needs no price
    if nodes.numel() and int(items[nodes[-1]]) * size > _MOST_CELLS:
        raise UnsupportedError(
            f"reassign: sinkhorn needs prefixes of at most {_MOST_CELLS} items x codes, "
            f"got {int(items[nodes[-1]])} x {size}; nearest_free has no such limit"
        )
    while nodes.numel():
        # as many prefixes as fit, all padded to the last one's number of items
        fits = (items[nodes] * torch.arange(1, nodes.numel() + 1) * size <= _CELLS).nonzero()
        part, nodes = nodes.tensor_split([max(1, fits.numel())])
        seat = torch.arange(int(items[part[-1]]))
        taken = seat < items[part].unsqueeze(1)
        item = order[torch.where(taken, begins[part].unsqueeze(1) + seat, 0)]
        usable = taken.unsqueeze(2) & (room(part, keys, counts, size, 1) > 0).unsqueeze(1)
        cost = half - residual[item].double() @ vectors.T
        cost -= cost.masked_fill(~usable, torch.inf).amin(2, keepdim=True).nan_to_num(posinf=0.0)
        scale = (cost.masked_fill(~usable, 0.0).amax((1, 2)) / 2).clamp(min=1e-300)
        gain = (-cost / scale[:, None, None]).masked_fill_(~usable, -torch.inf)
        price = torch.zeros(part.numel(), size, dtype=torch.float64)
        for turn in range(iterations):
            soft = max(epsilon, epsilon ** (2 * turn / iterations))
            log_u = -torch.logsumexp((gain - price.unsqueeze(1)) / soft, 2).masked_fill_(~taken, torch.inf)
            new = soft * torch.logsumexp(gain / soft + log_u.unsqueeze(2), 1).clamp(min=0.0)
            moved = float((new - price).abs().max())
            price = new
            if soft == epsilon and moved < _CONVERGED * epsilon:
                break
        prices[part] = price * scale.unsqueeze(1)
    return prices

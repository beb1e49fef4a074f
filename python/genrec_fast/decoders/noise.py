"""Random numbers of users' prefixes: functions of a seed, a history and a prefix, whoever else is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged

_LEVELS = 1 << 40  # nodes of a level are far fewer: node + level * this is another number for every prefix
_PURPOSES = 1 << 48


def prefixes(nodes: Tensor, level: int, purpose: int = 0) -> Tensor:
    """int64: another number for every prefix, by its node, and for everything that is drawn for it."""
    return nodes + (level * _LEVELS + purpose * _PURPOSES)


def uniform(seeds: Tensor, prefixes: Tensor) -> Tensor:
    """float64 in (0, 1), of each user's prefixes ``[B, C]``."""
    bits = _mixed(_mixed(prefixes) + seeds.unsqueeze(1)) >> 11 & ((1 << 53) - 1)
    return (bits.double() + 0.5) * 2.0**-53


def seeds_of_rows(seed: int, rows: Jagged) -> Tensor:
    """int64 ``[B]``: a seed for each row of whole numbers, by what it holds and not by where it stands."""
    values = rows.values.long()
    places = torch.arange(values.shape[0], device=values.device) - rows.offsets[:-1].repeat_interleave(rows.lengths)
    sums = torch.zeros(len(rows), dtype=torch.int64, device=values.device)
    sums.index_add_(0, rows.row_index(), _mixed(_mixed(values) + places))
    return _mixed(sums + rows.lengths + _mixed(torch.tensor(seed, device=values.device)))


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 64-bit words that scatters them well (the end of MurmurHash3, Stafford's variant 13)."""
    x = x + -7046029254386353131  # 0x9e3779b97f4a7c15
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ (x >> 31 & 0x1FFFFFFFF)


def gumbel(seeds: Tensor, prefixes: Tensor) -> Tensor:
    """float64 Gumbel noise of each user's prefixes ``[B, C]``."""
    return -(-uniform(seeds, prefixes).log()).log()

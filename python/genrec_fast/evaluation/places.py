"""Where targets stand among all items, and what a metric is worth there when scores are tied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.base.batch import Ranked


@dataclass(frozen=True)
class Places:
    """The places of targets, from 0. One that is tied with m others stands on each of m + 1 places alike.

    Figures are expectations over these places: no order among equals is better than chance. Without ties they are
    those of ``metrics``, bit for bit.

    Args:
        above: int64 ``[B]``: items that score higher; beyond every k where the target was not found.
        tied: int64 ``[B]``: other items of the same score.
    """

    above: Tensor
    tied: Tensor

    def recall(self, k: int) -> Tensor:
        """float64 ``[B]``: chance to be among the first k."""
        return ((k - self.above).double() / (self.tied + 1)).clamp(0.0, 1.0)

    def ndcg(self, k: int) -> Tensor:
        """float64 ``[B]``: expected 1 / log2(place + 2) within the first k."""
        return self._expected(k, 1.0 / torch.log2(torch.arange(k).double() + 2.0))

    def mrr(self, k: int) -> Tensor:
        """float64 ``[B]``: expected 1 / (place + 1) within the first k."""
        return self._expected(k, 1.0 / (torch.arange(k).double() + 1.0))

    def _expected(self, k: int, gains: Tensor) -> Tensor:
        first = self.above.clamp(max=k)
        last = (self.above + self.tied + 1).clamp(max=k)
        sums = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
        alone = torch.where(self.above < k, gains[self.above.clamp(max=k - 1)], 0.0)
        return torch.where(self.tied == 0, alone, (sums[last] - sums[first]) / (self.tied + 1))

    @classmethod
    def cat(cls, parts: list[Places]) -> Places:
        """All users of all parts."""
        return cls(torch.cat([part.above for part in parts]), torch.cat([part.tied for part in parts]))


_NOWHERE = (1 << 31) - 1  # beyond every k


def places_among(scores: Tensor, targets: Tensor) -> Places:
    """From scores ``[B, N]`` of all items; -inf: an item that was left out."""
    own = scores.gather(1, targets[:, None])
    above, tied = (scores > own).sum(1), (scores == own).sum(1) - 1
    out = own.squeeze(1) == -torch.inf
    return Places(above.masked_fill(out, _NOWHERE), tied.masked_fill(out, 0))


def first_items(scores: Tensor, k: int) -> Tensor:
    """The k best of each row of float32 scores ``[B, N]``: higher score first, then lower item; -1 for those of -inf.

    One ``topk`` over whole numbers in which the score comes first and the item second: popular items are tied by the
    thousand, and a stable sort of whole rows would take longer than everything else.
    """
    bits = (scores + 0.0).view(torch.int32)  # -0 is 0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    items = torch.arange(scores.shape[1], device=scores.device)
    places = torch.topk((ordered << 32) - items, min(k, scores.shape[1])).indices
    return places.masked_fill(scores.gather(1, places) == -torch.inf, -1)


def places_in(ranked: Ranked, targets: Tensor, k: int, ask: Callable[[Tensor, int], Ranked], num_items: int) -> Places:
    """From the lists of a search.

    A list that ends among equals does not say how many there are: those users are asked again, for twice as many items,
    until the end of the tie is seen.

    Args:
        ranked: on the CPU; one item more than k, where there are as many and the search can give them.
        targets: int64 ``[B]``.
        k: the largest that matters.
        ask: (users int64 ``[m]``, k) -> their longer lists, on the CPU.
        num_items: N.
    """
    hit = ranked.items == targets[:, None]
    found = hit.any(1)
    own = ranked.scores.gather(1, hit.to(torch.int8).argmax(1, keepdim=True))
    live = ranked.items >= 0
    above = ((ranked.scores > own) & live).sum(1).masked_fill(~found, _NOWHERE)
    tied = (((ranked.scores == own) & live).sum(1) - 1).masked_fill(~found, 0)
    width = ranked.items.shape[1]
    if not k < width < num_items:
        return Places(above, tied)
    last = ranked.scores[:, -1]
    unseen = live[:, -1] & (last == ranked.scores[:, k - 1]) & (~found | (own.squeeze(1) == last))
    users = unseen.nonzero().squeeze(1)
    if users.numel():
        wider = ask(users, min(2 * width, num_items))
        again = places_in(wider, targets[users], k, lambda some, size: ask(users[some], size), num_items)
        above[users], tied[users] = again.above, again.tied
    return Places(above, tied)

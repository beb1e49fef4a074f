"""Adds up the answers of one recommender, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.evaluation.figures import Line, Seen
from genrec_fast.evaluation.places import Places


class Tally:
    """The places of the targets, and which items were recommended how often.

    Args:
        name: who answers.
        seen: whether seen items are kept or removed.
        ks: where lists are cut.
        counts: int64 ``[N]``: training events of each item; ``None``: not known.
        num_items: N.
    """

    def __init__(self, name: str, seen: Seen, ks: Sequence[int], counts: Tensor | None, num_items: int) -> None:
        self.name, self.seen, self.ks = name, seen, ks
        self.bits: Tensor | None = None
        if counts is not None and int(counts.sum()):
            self.bits = (counts.sum() / counts.clamp(min=1).double()).log2()
        self.recommended = torch.zeros(len(ks), num_items, dtype=torch.int64)  # users whose first k hold the item
        self.places: list[Places] = []

    def add(self, items: Tensor, places: Places | None = None) -> None:
        """Lists int64 ``[B, >= k]`` of some users, -1 behind the last item, and where their targets stand."""
        for row, k in zip(self.recommended, self.ks, strict=True):
            first = items[:, :k]
            row += torch.bincount(first[first >= 0], minlength=row.numel())
        if places is not None:
            self.places.append(places)

    def coverage(self) -> dict[int, float]:
        """K -> share of the catalog that was recommended to somebody."""
        return {k: int((row > 0).sum()) / row.numel() for k, row in zip(self.ks, self.recommended, strict=True)}

    def novelty(self) -> dict[int, float]:
        """K -> mean self-information of what was recommended, bits; empty without counts or recommended items."""
        if self.bits is None or not int(self.recommended[0].sum()):
            return {}
        return {k: float((row * self.bits).sum() / row.sum()) for k, row in zip(self.ks, self.recommended, strict=True)}

    def lines(self, known: Tensor | None) -> list[Line]:
        """All questions; and, where ``known`` bool ``[B]`` says that there are both, known and new targets apart."""
        places = Places.cat(self.places)
        out = [self._line("all", places, None)]
        if known is not None and bool(known.any()) and not bool(known.all()):
            out += [self._line("known", places, known), self._line("new", places, ~known)]
        return out

    def _line(self, targets: str, places: Places, some: Tensor | None) -> Line:
        if some is not None:
            places = Places(places.above[some], places.tied[some])
        return Line(
            name=self.name,
            seen=self.seen,
            targets=targets,  # type: ignore[arg-type]
            num_users=places.above.numel(),
            recall={k: float(places.recall(k).mean()) for k in self.ks},
            ndcg={k: float(places.ndcg(k).mean()) for k in self.ks},
            mrr={k: float(places.mrr(k).mean()) for k in self.ks},
            coverage=self.coverage() if some is None else {},
            novelty=self.novelty() if some is None else {},
        )

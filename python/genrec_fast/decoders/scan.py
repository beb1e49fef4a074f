"""Exact search where a backbone scores every item: the k best of each row of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.protocols import ItemScores
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_excluded, check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.retrieve import keep_best


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Settings of ``Scan``."""

    scores_per_block: int = 1 << 25
    """scores held at once, users x items (2^25: 128 MiB)"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Scan:
        return Scan(self)


class Scan(Decoder):
    """Looks at the score of every item: exact, some users at a time."""

    needs = ItemScores
    reads_trie = False

    def __init__(self, config: ScanConfig) -> None:
        self.config = config

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step; ``num_beams`` and ``exact`` are not read.

        Raises:
            InvalidTypeError: the backbone does not score items.
            InvalidValueError: k or a filter does not fit.
        """
        return OneStep(len(batch), lambda: self._scanned(system.backbone, batch, query))

    def _scanned(self, backbone: Any, batch: Batch, query: Query) -> Ranked:
        if not isinstance(backbone, ItemScores):
            raise InvalidTypeError(f"scan: backbone must be ItemScores, got {type(backbone).__name__}")
        k, _ = check_k("scan", query.k)
        check_filter("scan", len(batch), backbone.num_items, query.allowed, query.exclude)
        check_excluded("scan", query.exclude, backbone.num_items)
        size = max(1, self.config.scores_per_block // backbone.num_items)
        parts = [
            _best(backbone, batch.slice(begin, begin + size), query.slice(begin, begin + size, of=len(batch)), k)
            for begin in range(0, max(1, len(batch)), size)
        ]
        return Ranked.cat(parts)


def _best(backbone: ItemScores, batch: Batch, query: Query, k: int) -> Ranked:
    scores = backbone.score_items(batch)
    if query.allowed is not None:
        scores = scores.masked_fill(~query.allowed, -torch.inf)
    if query.exclude is not None:
        scores[query.exclude.row_index(), query.exclude.values.long()] = -torch.inf
    count, device = len(batch), scores.device
    best = torch.full((count, k), -torch.inf, device=device)
    ids = torch.full((count, k), -1, dtype=torch.int64, device=device)
    best, ids = keep_best(best, ids, scores, torch.arange(backbone.num_items, device=device))
    return Ranked.of_items(ids, best)

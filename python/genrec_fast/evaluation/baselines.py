"""What every model has to beat: recommenders that need no training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.backbones import TransitionsConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import ItemScores
from genrec_fast.catalog.catalog import Catalog


class Popularity:
    """Scores every item by its number of training events, for everybody.

    Args:
        counts: ``[N]``.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts, self.num_items = counts.float(), counts.numel()

    def score_items(self, batch: Batch) -> Tensor:
        """float32 ``[B, N]``."""
        return self.counts.repeat(len(batch), 1)


def baselines(histories: Jagged, num_items: int, features: Tensor | None) -> dict[str, ItemScores]:
    """Popularity and the transition graph; with features also nearest neighbours of the last item, and both together.

    Args:
        histories: of the training split.
        num_items: N.
        features: float ``[N, F]``, or ``None``.
    """
    found: dict[str, Any] = {"popularity": Popularity(torch.bincount(histories.values, minlength=num_items))}
    plain = found["transition graph"] = TransitionsConfig().build(Catalog(num_items=num_items))
    plain.count(histories)
    if features is not None:
        catalog = Catalog(features=features.cpu())
        joined = TransitionsConfig().build(catalog)
        for name, tensor in plain.named_buffers():
            setattr(joined, name, tensor)  # the same graph, once in memory
        found["graph + features"] = joined
        found["features of the last item"] = TransitionsConfig(last_items=1, popularity_weight=0.0).build(catalog)
    return found

"""Exact search with several embeddings of a user: an item's score is that of the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Interests
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.retrieve import nearest


def nearest_interests(
    interests: Tensor,
    table: Tensor,
    k: int,
    *,
    items_per_block: int = 65536,
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
) -> Ranked:
    """The k items with the highest ``max over i of interest[i] . item``.

    Every interest's own k best are found exactly; the k best of the user are among them.

    Args:
        interests: float ``[B, I, D]``.
        table: float ``[N, D]``.
        k: items per user.
        items_per_block: scores held at once per interest.
        allowed: bool ``[N]`` or ``[B, N]``: items that may appear; ``None``: all.
        exclude: item ids per user that may not appear; ``None``: none.

    Returns:
        As ``decoders.retrieve.nearest``; every result is exact.

    Raises:
        InvalidTypeError: a filter has the wrong dtype.
        InvalidValueError: k or a filter does not fit, or a score is NaN.

    Notes:
        B I N D multiplications.

    Source: KuaiFormer (arXiv:2411.10057), section 3.4.
    """
    k, _ = check_k("retrieve_interests", k)
    users, per_user, width = interests.shape
    check_filter("retrieve_interests", users, table.shape[0], allowed, exclude)
    if allowed is not None and allowed.dim() == 2 and allowed.shape[0] > 1:
        allowed = allowed.repeat_interleave(per_user, 0)
    if exclude is not None:
        exclude = exclude.select(torch.arange(users, device=interests.device).repeat_interleave(per_user))
    found = nearest(
        interests.reshape(users * per_user, width),
        table,
        k,
        items_per_block=items_per_block,
        allowed=allowed,
        exclude=exclude,
    )
    items, scores = found.items.view(users, per_user * k), found.scores.view(users, per_user * k)
    # Lower ids first, then higher scores first, stable: the order of the answer; of an item the best place stays.
    order = torch.argsort(items, dim=1, stable=True)
    items, scores = items.gather(1, order), scores.gather(1, order)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    items, scores = items.gather(1, order), scores.gather(1, order)
    by_item = torch.argsort(items, dim=1, stable=True)
    grouped = items.gather(1, by_item)
    again = torch.zeros_like(grouped, dtype=torch.bool)
    again[:, 1:] = grouped[:, 1:] == grouped[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, by_item, again) | (items < 0)
    keep = torch.argsort(repeated.to(torch.int8), dim=1, stable=True)[:, :k]
    gone = repeated.gather(1, keep)
    items = items.gather(1, keep).masked_fill(gone, -1)
    scores = scores.gather(1, keep).masked_fill(gone, -torch.inf)
    return Ranked.of_items(items, scores)


@dataclass(frozen=True, kw_only=True)
class RetrieveInterestsConfig:
    """Settings of the exact search with several embeddings of a user."""

    items_per_block: int = 65536
    """items scored at once"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> RetrieveInterests:
        return RetrieveInterests(self)


class RetrieveInterests(Decoder):
    """A configured exact search with several embeddings of a user."""

    needs = Interests
    reads_trie = False

    def __init__(self, config: RetrieveInterestsConfig) -> None:
        self.config = config

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step: ``nearest_interests``.

        Raises:
            InvalidTypeError: the backbone does not speak ``Interests``.
        """
        backbone = system.backbone
        if not isinstance(backbone, Interests):
            raise InvalidTypeError(f"retrieve_interests: backbone must be Interests, got {type(backbone).__name__}")
        check_k("retrieve_interests", query.k)
        return OneStep(
            len(batch), lambda: self.of_vectors(backbone.embed_interests(batch), backbone.item_table(), query)
        )

    def of_vectors(self, interests: Tensor, table: Tensor, query: Query) -> Ranked:
        """The answer for users whose embeddings ``[B, I, D]`` are known already."""
        return nearest_interests(
            interests,
            table,
            query.k,
            items_per_block=self.config.items_per_block,
            allowed=query.allowed,
            exclude=query.exclude,
        )

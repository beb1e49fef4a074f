"""Exact search with an embedding: the k items with the highest inner product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.batch import Batch, Ranked
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Embedding
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.decoders.arguments import check_excluded, check_filter, check_k
from genrec_fast.decoders.base import Decoder, OneStep
from genrec_fast.decoders.index import is_flat, search_index
from genrec_fast.ops import topk_inner_product


def nearest(
    users: Tensor,
    table: Tensor,
    k: int,
    *,
    items_per_block: int = 65536,
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
    index: Any = None,
    op: str = "retrieve",
) -> Ranked:
    """The k items with the highest inner product with the users' vectors.

    Args:
        users: float ``[B, D]``.
        table: float ``[N, D]``: a vector for each item.
        k: items per user.
        items_per_block: scores held at once per user on devices that have no kernel; the CPU's holds none.
        allowed: bool ``[N]`` or ``[B, N]``: items that may appear; ``None``: all.
        exclude: item ids per user that may not appear; ``None``: none.
        index: a faiss index of the table under the inner product, item n its vector n; ``None``: the table.
        op: named in errors.

    Returns:
        ``Ranked``: higher score first, then lower item id; ``codes`` ``[B, k, 1]`` holds the item id, the semantic ID
        that ``tokenizers.atomic`` gives. ``exact`` is true and ``bound`` -inf, as every item was scored; with an
        index only where it is flat (faiss rounds in float32), else false and inf.

    Raises:
        InvalidTypeError: allowed is not bool, or the index cannot be searched.
        InvalidValueError: k below 1, filters or an index that do not fit, or vectors that are not finite.

    Notes:
        On the CPU ``ops.topk_inner_product``: 2 B N D flops, the table read once, no matrix of scores; the scores are
        float64 sums rounded once. Elsewhere products in blocks and ``topk``. With an index, what a filter removes is
        fetched anew, more at a time, until k are left; scores are those of the table.
    """
    k, _ = check_k(op, k)
    users = users.float()
    count, num_items, device = users.shape[0], table.shape[0], users.device
    check_filter(op, count, num_items, allowed, exclude)
    check_excluded("retrieve", exclude, num_items)
    exact, bound = True, -torch.inf
    if index is not None:
        best, ids = search_index(index, users, table, k, allowed, exclude)
        exact = is_flat(index)
        bound = -torch.inf if exact else torch.inf
    elif device.type == "cpu":
        best, ids = topk_inner_product(users, table.float(), k, allowed=allowed, exclude=exclude)
    else:
        best, ids = _in_blocks(users, table, k, items_per_block, allowed, exclude)
    return Ranked.of_items(ids, best, exact=exact, bound=bound)


def _in_blocks(
    users: Tensor, table: Tensor, k: int, items_per_block: int, allowed: Tensor | None, exclude: Jagged | None
) -> tuple[Tensor, Tensor]:
    """``for block of items: best = top k of (best, users @ block.T)``: scores ``[B, k]`` and ids ``[B, k]``."""
    count, device = users.shape[0], users.device
    owner = None if exclude is None else exclude.row_index()
    best = torch.full((count, k), -torch.inf, device=device)
    ids = torch.full((count, k), -1, dtype=torch.int64, device=device)
    for first in range(0, table.shape[0], items_per_block):
        block = table[first : first + items_per_block].float()
        scores = users @ block.T
        if bool(scores.isnan().any()):
            user, item = scores.isnan().nonzero()[0].tolist()
            raise InvalidValueError(f"retrieve: scores must not be NaN, got NaN for user {user}, item {first + item}")
        if allowed is not None:
            scores.masked_fill_(~allowed[..., first : first + items_per_block], -torch.inf)
        if exclude is not None and owner is not None:
            inside = (exclude.values >= first) & (exclude.values < first + block.shape[0])
            scores[owner[inside], exclude.values[inside].long() - first] = -torch.inf
        best, ids = keep_best(best, ids, scores, torch.arange(first, first + block.shape[0], device=device))
    return best, ids


def keep_best(best: Tensor, ids: Tensor, scores: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """The best k of ``[B, k]`` scores and ids, and ``[B, n]`` scores of ascending ``items [n]`` above all those ids."""
    k = best.shape[1]
    value, place = _top(scores, min(k, scores.shape[1]))
    # Earlier items stand first and hold the lower ids, so a stable sort breaks ties as promised.
    best, order = torch.sort(torch.cat([best, value], 1), dim=1, descending=True, stable=True)
    best, ids = best[:, :k].contiguous(), torch.cat([ids, items[place]], 1).gather(1, order[:, :k])
    return best, torch.where(best > -torch.inf, ids, -1)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``topk`` along dim 1 with a defined winner: the lower index."""
    value, place = torch.topk(scores, k, dim=1)
    place, order = torch.sort(place, dim=1)
    value, order = torch.sort(value.gather(1, order), dim=1, descending=True, stable=True)
    place = place.gather(1, order)
    # topk chose freely among equals of the last value: where it left one out, a stable sort decides.
    last = value[:, -1:]
    open_ = ((scores == last).sum(1) > (value == last).sum(1)) & (last.squeeze(1) > -torch.inf)
    if bool(open_.any()):
        sorted_value, sorted_place = torch.sort(scores[open_], dim=1, descending=True, stable=True)
        value[open_], place[open_] = sorted_value[:, :k], sorted_place[:, :k]
    return value, place


@dataclass(frozen=True, kw_only=True)
class RetrieveConfig:
    """Settings of the exact search with an embedding."""

    items_per_block: int = 65536
    """items scored at once where there is no kernel, on a GPU (65536: 64 MiB of scores for 256 users)"""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog | None = None) -> Retrieve:
        return Retrieve(self)


class Retrieve(Decoder):
    """A configured search with an embedding: exact, unless ``index`` is set to a faiss index that is not flat.

    The index is the caller's to make over ``item_table()`` once training is over, and is not saved with the model::

        model.decoder.index = faiss.index_factory(64, "HNSW32", faiss.METRIC_INNER_PRODUCT)
        model.decoder.index.add(model.backbone.item_table().detach().numpy())
    """

    needs = Embedding
    reads_trie = False

    def __init__(self, config: RetrieveConfig) -> None:
        self.config = config
        self.index: Any = None

    def begin(self, system: Any, batch: Batch, query: Query) -> OneStep:
        """One step: ``nearest`` of the users' embeddings; with ``query.exact`` the index is not read.

        Raises:
            InvalidTypeError: the backbone is no ``Embedding``.
        """
        backbone = system.backbone
        if not isinstance(backbone, Embedding):
            raise InvalidTypeError(f"retrieve: backbone must be Embedding, got {type(backbone).__name__}")
        check_k("retrieve", query.k)
        return OneStep(len(batch), lambda: self.of_vectors(backbone.embed_users(batch), backbone.item_table(), query))

    def of_vectors(self, users: Tensor, table: Tensor, query: Query) -> Ranked:
        """The answer for users whose embeddings ``[B, D]`` are known already."""
        return nearest(
            users,
            table,
            query.k,
            items_per_block=self.config.items_per_block,
            allowed=query.allowed,
            exclude=query.exclude,
            index=None if query.exact else self.index,
        )

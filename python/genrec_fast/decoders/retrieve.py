"""Exact search with an embedding: the k items with the highest inner product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_fast.decoders._users import check_filter, check_k
from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.types import Batch, Embedding, Jagged, Ranked

__all__ = ["Retrieve", "RetrieveConfig", "search"]


@torch.inference_mode()
def search(
    backbone: Embedding,
    batch: Batch,
    k: int,
    *,
    items_per_block: int = 65536,
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
) -> Ranked:
    """The k items with the highest inner product with the user's embedding.

    ::

        for block of items: best = top k of (best, users @ block.T)

    Args:
        backbone: an ``Embedding``, in evaluation mode.
        batch: B users.
        k: items per user.
        items_per_block: scores held at once per user; ``[B, N]`` is never formed for a larger N.
        allowed: bool ``[N]`` or ``[B, N]``: items that may appear; ``None``: all.
        exclude: item ids per user that may not appear; ``None``: none.

    Returns:
        ``Ranked``: higher score first, then lower item id; ``exact`` is true and ``bound`` -inf everywhere, as every
        item was scored; ``codes`` ``[B, k, 1]`` holds the item id, the semantic ID that ``tokenizers.atomic`` gives.

    Raises:
        InvalidTypeError: the backbone is not an ``Embedding``, or a filter has the wrong dtype.
        InvalidValueError: k or a filter does not fit, or a score is NaN.

    Notes:
        B N D multiplications in float32; B items_per_block floats of workspace. Deterministic.

    Source: ours.

    Example:
        ``search(backbone, batch, k=10).items``
    """
    if not isinstance(backbone, Embedding):
        raise InvalidTypeError(f"retrieve: backbone must be Embedding, got {type(backbone).__name__}")
    check_k("retrieve", k)
    users = backbone.embed_users(batch).float()
    table = backbone.item_table()
    count, num_items, device = users.shape[0], table.shape[0], users.device
    check_filter("retrieve", count, num_items, allowed, exclude)
    if exclude is not None and exclude.values.numel():
        low, high = (int(v) for v in exclude.values.aminmax())
        if low < 0 or high >= num_items:
            wrong = low if low < 0 else high
            raise InvalidValueError(f"retrieve: exclude must hold item ids in [0, {num_items}), got {wrong}")
    owner = None if exclude is None else exclude.row_index()

    best = torch.full((count, k), -torch.inf, device=device)
    ids = torch.full((count, k), -1, dtype=torch.int64, device=device)
    for first in range(0, num_items, items_per_block):
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
        value, place = _top(scores, min(k, block.shape[0]))
        # Earlier blocks stand first and hold the lower ids, so a stable sort breaks ties as promised.
        best, order = torch.sort(torch.cat([best, value], 1), dim=1, descending=True, stable=True)
        best, ids = best[:, :k].contiguous(), torch.cat([ids, place + first], 1).gather(1, order[:, :k])
    ids = torch.where(best > -torch.inf, ids, -1)
    return Ranked(
        ids,
        ids.to(torch.int32).unsqueeze(2),
        best,
        torch.ones(count, dtype=torch.bool, device=device),
        torch.full((count,), -torch.inf, device=device),
    )


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

    needs: ClassVar[str] = "Embedding"

    items_per_block: int = 65536
    """items scored at once (65536: 64 MiB of scores for 256 users)"""

    def __post_init__(self) -> None:
        if self.items_per_block < 1:
            raise InvalidValueError(f"RetrieveConfig: items_per_block must be at least 1, got {self.items_per_block}")

    def build(self) -> Retrieve:
        return Retrieve(self)


class Retrieve:
    """A configured exact search with an embedding."""

    def __init__(self, config: RetrieveConfig) -> None:
        self.config = config

    def search(
        self,
        backbone: Embedding,
        batch: Batch,
        trie: Any,
        k: int,
        *,
        num_beams: int | None = None,
        allowed: Tensor | None = None,
        exclude: Jagged | None = None,
        exact: bool = False,
    ) -> Ranked:
        """See ``search``; ``trie`` and ``num_beams`` are not read, and every result is exact."""
        block = self.config.items_per_block
        return search(backbone, batch, k, items_per_block=block, allowed=allowed, exclude=exclude)

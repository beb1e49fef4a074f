"""ColaRec's loss: codes from histories and from items themselves, and both kinds of reading in one space."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.objective import Objective
from genrec_fast.catalog.catalog import Catalog

_DRAWS = 8  # of a negative, until it is one


class Indexing(Protocol):
    """A backbone that reads histories and single items, such as ``backbones.ColaRec``."""

    def told(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Logits of the next item's codes, per level ``[M, K_l]``, and the users' summaries ``[M, D]``."""
        ...

    def indexed(self, items: Tensor, codes: Tensor) -> tuple[list[Tensor], Tensor]:
        """Logits of the items' own codes, per level ``[n, K_l]``, and the items' summaries ``[n, D]``."""
        ...

    def summaries(self, items: Tensor) -> Tensor:
        """``[n, D]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class ItemIndexingConfig:
    """Settings of ``ItemIndexing``; the defaults are those of ColaRec's code."""

    code_weight: float = 0.08  # of the cross-entropies, beside the ranking of users
    relative_weight: float = 0.1  # of the ranking of items by items
    relative_levels: int = 2  # so many first codes are shared by relatives, and never all

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog) -> ItemIndexing:
        """For a catalog with semantic IDs.

        Raises:
            InvalidValueError: it has none.
        """
        return ItemIndexing(self, catalog)


class ItemIndexing(Objective):
    """Four losses over users u with a next item i, of which three read items by themselves.

    ::

        next      mean of -log p(codes of i | history)
        index     mean of -log p(codes of i | i)  +  mean of -log p(codes of n | n)
        users     mean of -log sigmoid(s_u . s_i - s_u . s_n)
        items     mean of -log sigmoid(s_i . s_r - s_i . s_n)
        loss    = code_weight (next + index) + users + relative_weight items

    s are summaries; n is drawn evenly, again where it stands in the history, is i or a relative of it; a relative r is
    drawn evenly from the items that share the first ``relative_levels`` codes of i (i itself where there are none).
    After eight draws a user is left out of both rankings. -log p is a mean over levels.

    Source: ColaRec (arXiv:2403.18480), sections 3.3 to 3.5, its published code.
    """

    needs = Indexing

    def __init__(self, config: ItemIndexingConfig, catalog: Catalog) -> None:
        if catalog.item_codes is None:
            raise InvalidValueError("ItemIndexing: catalog must have item_codes, got None")
        self.config, self.item_codes = config, catalog.item_codes

    @functools.cached_property
    def relatives(self) -> Relatives:
        """Of all items; made at the first loss."""
        return Relatives(self.item_codes, self.config.relative_levels)

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch; draws from torch's generator; figures: its four terms."""
        codes = batch.target_codes
        if batch.targets is None or codes is None or codes.shape[0] == 0:
            raise InvalidValueError("ItemIndexing: batch must have targets, got none")
        backbone, wanted = system.backbone, batch.targets[batch.target_positions]
        relatives = self.relatives.draw(wanted)
        negatives, known = self.negatives(batch.items, wanted)
        negative_codes = self.relatives.codes.to(codes.device)[negatives]
        logits, users = backbone.told(batch)
        own, items = backbone.indexed(wanted, codes)
        other, against = backbone.indexed(negatives, negative_codes)
        near = backbone.summaries(relatives)
        parts = {
            "next": _written(logits, codes),
            "index": _written(own, codes) + _written(other, negative_codes),
            "users": ranking(users, items, against, known),
            "items": ranking(items, near, against, known),
        }
        value = self.config.code_weight * (parts["next"] + parts["index"]) + parts["users"]
        value = value + self.config.relative_weight * parts["items"]
        return Loss(value, codes.shape[0], {f"loss_{name}": float(part.detach()) for name, part in parts.items()})

    def negatives(self, histories: Jagged, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Of each of M users int64 ``[M]`` an item, and bool ``[M]``: whether it is a negative.

        Args:
            histories: M rows.
            wanted: int64 ``[M]``: the next items.
        """
        num_items, group = len(self.relatives.codes), self.relatives.group.to(wanted.device)
        rows = torch.arange(len(wanted), device=wanted.device)
        lengths = histories.lengths
        seen = torch.repeat_interleave(rows, lengths, output_size=histories.values.shape[0]) * num_items
        seen = seen + histories.values
        found = torch.randint(num_items, wanted.shape, device=wanted.device)
        for draw in range(_DRAWS):
            wrong = torch.isin(rows * num_items + found, seen) | (group[found] == group[wanted])
            if draw + 1 < _DRAWS:
                found = torch.randint(num_items, wanted.shape, device=wanted.device).where(wrong, found)
        return found, ~wrong


class Relatives:
    """Items by their first codes.

    Args:
        codes: integers ``[N, L]``.
        levels: of the codes that are shared, at most L - 1.
    """

    def __init__(self, codes: Tensor, levels: int) -> None:
        self.codes = codes.long().cpu()
        numbers, shared = torch.arange(len(codes)), min(levels, codes.shape[1] - 1)
        prefixes = self.codes[:, :shared] if shared else numbers[:, None]  # of one level: nobody is related
        self.group = torch.unique(prefixes, dim=0, return_inverse=True)[1]
        self.order = self.group.argsort(stable=True)
        self.counts = torch.bincount(self.group)
        self.first = self.counts.cumsum(0) - self.counts
        self.place = torch.empty_like(numbers).index_copy(0, self.order, numbers) - self.first[self.group]

    def draw(self, items: Tensor) -> Tensor:
        """Another item of the same group for each of int64 ``[n]``; the item itself where it is alone."""
        at = items.cpu()
        group = self.group[at]
        others = self.counts[group] - 1
        chance = torch.rand(at.shape, dtype=torch.float64)
        drawn = (chance * others).long().minimum((others - 1).clamp(min=0))
        drawn = drawn + ((drawn >= self.place[at]) & (others > 0))
        found: Tensor = self.order[self.first[group] + drawn].to(items.device)
        return found


def _written(logits: list[Tensor], codes: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(one.float(), codes[:, level]) for level, one in enumerate(logits)]).mean()


def ranking(queries: Tensor, better: Tensor, worse: Tensor, known: Tensor) -> Tensor:
    """Mean over the rows that count of ``-log sigmoid(q . b - q . w)``; 0 where none does.

    Args:
        queries: float ``[n, D]``.
        better: float ``[n, D]``.
        worse: float ``[n, D]``.
        known: bool ``[n]``: which rows count.
    """
    apart = ((better.float() - worse.float()) * queries.float()).sum(1)
    losses = F.softplus(-apart) * known
    return losses.sum() / known.sum().clamp(min=1)

"""What an answer is based on: a history, the start that a model learned, or what is popular."""

from __future__ import annotations

import dataclasses

import torch

from genrec_fast.base.batch import BASES, Question, Ranked
from genrec_fast.base.query import Query
from genrec_fast.catalog.catalog import Catalog


def based(found: Ranked, question: Question, learned_start: bool) -> Ranked:
    """The answer, saying what each user's items are based on, and how many items of the history were left out."""
    lengths = question.items.lengths.cpu()
    without = BASES.index("start" if learned_start else "popular")
    skipped = torch.zeros_like(lengths) if question.skipped is None else question.skipped
    return dataclasses.replace(found, basis=(lengths == 0) * without, skipped=skipped)


def popular(catalog: Catalog, query: Query, users: int, with_codes: bool) -> Ranked:
    """The items that occur most often in the training data, of those that each user may get.

    ``score = log((count + 1) / sum over items of (count + 1))``, exact; ties go to the lower id. ``codes`` are semantic
    IDs ``with_codes``, else the item's id, as decoders that score items have it.

    Raises:
        InvalidValueError: the catalog has no counts.
    """
    query = query.filtered(catalog.num_items).to("cpu")
    order, scores = catalog.by_popularity
    items = torch.full((users, query.k), -1, dtype=torch.int64)
    for user in range(users):
        own = query.slice(user, user + 1, of=users)
        kept = order if own.allowed is None else order[own.allowed.view(-1)[order]]
        if own.exclude is not None:
            kept = kept[: query.k + own.exclude.values.shape[0]]
            kept = kept[~torch.isin(kept, own.exclude.values)]
        best = kept[: query.k]
        items[user, : best.shape[0]] = best
    codes = items[..., None].to(torch.int32)
    if with_codes and catalog.item_codes is not None:
        codes = torch.where(codes < 0, -1, catalog.item_codes.cpu().to(torch.int32)[items])
    return Ranked(
        items,
        codes,
        torch.where(items < 0, -torch.inf, scores[items]),
        torch.ones(users, dtype=torch.bool),
        torch.full((users,), -torch.inf),
    )

"""``genrec-fast recommend``: one question from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.cli.commands import set_threads
from genrec_fast.recipe.recommender import load
from genrec_fast.serving.action_marks import marked

__all__ = ["Asking", "recommend"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked."""

    history: tuple[str, ...]
    """item names as in the data, oldest first"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """how many"""
    exclude_seen: bool = False
    """nothing that stands in the history"""
    user: int | None = None
    """who asks, by row of the training data, from 0: for recipes with user tokens (tiger), which read everybody as user
    0 if it is not given"""
    times: tuple[float, ...] | None = None
    """when each event of the history was, in seconds: for recipes that read times (hstu)"""
    at: float | None = None
    """when the list is to be shown, in seconds; at the last event if not given"""
    actions: tuple[str, ...] | None = None
    """what the user did at each event of the history, a 0 or 1 for each of the recipe's actions in their order, such as
    11 10 00: for recipes that read actions (hstu_ranking)"""
    num_beams: int | None = None
    """the recipe's own if not given"""
    exact: bool = False
    """widen the search until the list is proven to be the best of the catalog"""


def recommend(
    model: Annotated[Path, tyro.conf.Positional],
    *,
    asking: tyro.conf.OmitArgPrefixes[Asking],
    threads: int | None = None,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Prints the k best items for one history.

    Args:
        model: folder of the trained model.
        asking: what is asked.
        threads: CPU threads; all cores if not given.
        device: cpu, cuda, ...
        json: one JSON object instead of a table.
    """
    set_threads(threads)
    recommender = load(model, device)
    numbers = recommender.numbers(asking.history, what="recommend: each item of history")
    k = min(asking.k, recommender.num_items)  # there are no more results than that
    if asking.num_beams is not None and asking.num_beams < 1:  # a recipe that scores every item does not look at it
        raise InvalidValueError(f"recommend: num_beams must be at least 1, got {asking.num_beams}")
    ranked = recommender.recommend(
        [numbers],
        k,
        exclude_seen=asking.exclude_seen,
        num_beams=asking.num_beams,
        exact=asking.exact,
        users=None if asking.user is None else [asking.user],
        timestamps=None if asking.times is None else [list(asking.times)],
        target_timestamps=None if asking.at is None else [asking.at],
        actions=marked(recommender, None if asking.actions is None else [asking.actions], [len(numbers)]),
    )
    found = [
        {"item": recommender.item_ids[item], "score": score, "title": recommender.title(item)}
        for item, score in zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True)
        if item >= 0
    ]
    if json:
        print(dumps({"items": found, "exact": bool(ranked.exact[0])}))
        return
    wide = max([len(entry["item"]) for entry in found], default=0)
    for place, entry in enumerate(found, start=1):
        print(f"{place:>3}  {entry['item']:<{wide}}  {entry['score']:8.3f}  {entry['title']}")

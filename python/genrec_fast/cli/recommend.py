"""``genrec-fast recommend``: one question from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.cli.commands import set_threads
from genrec_fast.cli.flags import flags_of, in_flags
from genrec_fast.cli.items import expanded, items_of
from genrec_fast.recipe.recommender import Recommender, load
from genrec_fast.serving.action_marks import marked
from genrec_fast.serving.http_body import answer_of

_ITEMS = tyro.conf.arg(metavar="ITEM ... | @FILE")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """An item is its name, words of its title, or id:NUMBER; @FILE holds one a line."""

    history: Annotated[tuple[str, ...], _ITEMS] = ()
    """what the user had, oldest first; without it, the popular items or what the model expects first"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """how many"""
    allowed: Annotated[tuple[str, ...] | None, _ITEMS] = None
    """nothing else is recommended"""
    candidates: Annotated[tuple[str, ...] | None, _ITEMS] = None
    """what is to be ranked; with --allowed, what is in both"""
    exclude: Annotated[tuple[str, ...] | None, _ITEMS] = None
    """what is not recommended"""
    exclude_seen: bool = False
    """nothing that stands in the history"""
    unknown: Literal["refuse", "skip"] = "refuse"
    """items that the catalog does not have are an error, or left out and said"""
    user: int | None = None
    """who asks, by row of the training data, from 0: for recipes with user tokens (tiger), which read everybody as the
    first one if it is not given"""
    times: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="SECONDS ... | @FILE")] = None
    """when each event of the history was, in seconds: for recipes that read times (hstu)"""
    at: float | None = None
    """when the list is to be shown, in seconds; at the last event if not given"""
    actions: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="DIGITS ... | @FILE")] = None
    """what the user did at each event of the history, a 0 or 1 for each of the recipe's actions in their order (11 10
    00): for recipes that read actions (hstu_ranking)"""
    num_beams: int | None = None
    """the recipe's own if not given"""
    exact: bool = False
    """widen the search until the list is proven to be the best of the catalog"""
    seed: int | None = None
    """of decoders that draw; their own if not given"""


# Arguments of Recommender.recommend, and the flags that give them.
FLAGS = {
    **flags_of(Asking),
    "k": "-k",
    "histories": "--history",
    "users": "--user",
    "timestamps": "--times",
    "target_timestamps": "--at",
}


def recommend(
    model: Annotated[Path, tyro.conf.Positional],
    *,
    asking: tyro.conf.OmitArgPrefixes[Asking],
    threads: int | None = None,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Prints the k best items for one history; for a file of histories, give --input and --output (--input --help).

    Args:
        model: folder of the trained model.
        asking: what is asked.
        threads: CPU threads; all cores if not given.
        device: cpu, cuda, ...
        json: one JSON object instead of a table.
    """
    with in_flags(FLAGS):
        set_threads(threads)
        recommender = load(model, device)
        ranked = recommender.recommend(**_arguments(asking, recommender))
    (answer,) = answer_of(ranked, recommender)
    _say_basis(answer["basis"], recommender)
    found = answer["items"]
    if not found:
        print("no items: nothing is left to recommend", file=sys.stderr)
    if json:
        print(dumps(answer))
        return
    wide = max([len(entry["item"]) for entry in found], default=0)
    for place, entry in enumerate(found, start=1):
        print(f"{place:>3}  {entry['item']:<{wide}}  {entry['score']:8.3f}  {entry['title']}")


def _arguments(asking: Asking, model: Recommender) -> dict[str, Any]:
    """Of ``Recommender.recommend``, for one user."""
    skip = asking.unknown == "skip"
    history = items_of(model, "--history", asking.history, skip)
    user = None if asking.user is None else whole_number("recommend", "user", asking.user, 0)
    given: dict[str, Any] = {
        "histories": [history],
        "k": min(asking.k, model.num_items),  # there are no more results than that
        "users": None if user is None else [user],
        "timestamps": None if asking.times is None else [_seconds(asking.times, len(history))],
        "target_timestamps": None if asking.at is None else [asking.at],
    }
    if asking.times is None and history and getattr(model.backbone, "reads_times", False):
        raise InvalidValueError(f"recommend: times must be given, as {model.name} reads when events were, got none")
    if asking.times is None and asking.at is not None:
        raise InvalidValueError(f"recommend: at must come with --times, got {asking.at:g} without")
    for name in ("allowed", "candidates", "exclude"):
        words = getattr(asking, name)
        if words is not None:
            given[name] = items_of(model, FLAGS[name], words, skip)
    for name in ("exclude_seen", "unknown", "num_beams", "exact", "seed"):
        given[name] = getattr(asking, name)
    marks = None if asking.actions is None else [expanded("--actions", asking.actions)]
    return given | {"actions": marked(model, marks, [len(history)])}


def _seconds(words: Sequence[str], events: int) -> list[float]:
    times = expanded("--times", words)
    if len(times) != events:
        raise InvalidValueError(f"recommend: times must be as many as items of --history, {events}, got {len(times)}")
    found = []
    for word in times:
        try:
            found.append(float(word))
        except ValueError as error:
            raise InvalidValueError(f"recommend: times must be numbers of seconds, got {word!r:.40}") from error
    return found


def _say_basis(basis: str, model: Recommender) -> None:
    """Says where a list without a history comes from."""
    reasons = {
        "popular": "no history: the most popular items of the training data",
        "start": f"no history: what {model.name} expects first",
    }
    if basis in reasons:
        print(reasons[basis], file=sys.stderr)

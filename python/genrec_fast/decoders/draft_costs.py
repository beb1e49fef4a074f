"""What speculation costs here: one search by each number of drafts, timed, of which the cheapest is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import numbers, whole_number
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.query import Query
from genrec_fast.decoders.base import Decoder, run
from genrec_fast.decoders.drafted_search import DraftedSearch


@dataclass(frozen=True)
class DraftCost:
    """One search of some users.

    Args:
        drafts_per_beam: as in ``SpeculativeConfig``; 0: the beam search without a draft.
        seconds: of the whole search, the reading of the histories by target and draft in it; the least of some.
        passes: of the target, without the one that read the histories; 0 without a draft, where nobody counts.
        accepted: levels that a user gained beyond one a pass, on average.
    """

    drafts_per_beam: int
    seconds: float
    passes: int = 0
    accepted: float = 0.0


def draft_costs(
    system: Any,
    batch: Batch,
    query: Query,
    searches: Sequence[tuple[int, Decoder]],
    rounds: int,
    clock: Callable[[], float],
) -> tuple[DraftCost, ...]:
    """Times decoders by their number of drafts; they take turns, so that a busy moment hits them alike.

    Args:
        system: what they search.
        batch: users as the backbone reads them.
        query: what is asked.
        searches: number of drafts and decoder.
        rounds: how often each is timed, after a search that is not.
        clock: seconds since some moment.
    """
    seconds, found = [float("inf")] * len(searches), [DraftCost(number, 0.0) for number, _ in searches]
    for turn in range(rounds + 1):
        for at, (number, decoder) in enumerate(searches):
            start = clock()
            running: Any = decoder.begin(system, batch, query)
            search = running.first() if number else None
            run(running)
            took = clock() - start
            seconds[at] = min(seconds[at], took) if turn else seconds[at]
            if isinstance(search, DraftedSearch):
                found[at] = DraftCost(number, 0.0, search.passes, float(search.accepted.float().mean()))
    return tuple(
        DraftCost(cost.drafts_per_beam, least, cost.passes, cost.accepted)
        for cost, least in zip(found, seconds, strict=True)
    )


def cheapest(costs: Sequence[DraftCost]) -> int:
    """The number of drafts whose search took the least time; ties: the smaller. The search without a draft is none.

    Raises:
        InvalidValueError: no search had a draft.
    """
    drafted = [(cost.seconds, cost.drafts_per_beam) for cost in costs if cost.drafts_per_beam]
    if not drafted:
        raise InvalidValueError("speculative: costs must hold a search with drafts, got none")
    return min(drafted)[1]


def check_widths(widths: Any, rounds: Any) -> list[int]:
    """Numbers of drafts to be timed.

    Raises:
        InvalidTypeError: no whole numbers.
        InvalidValueError: below 1, or none.
    """
    found = numbers("speculative", "drafts_per_beam", widths, 1)
    if not found:
        raise InvalidValueError("speculative: drafts_per_beam must be at least one number, got none")
    whole_number("speculative", "rounds", rounds)
    return found

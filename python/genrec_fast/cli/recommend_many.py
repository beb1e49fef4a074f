"""``genrec-fast recommend DIR --input FILE --output FILE``: many users at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.cli.commands import set_threads
from genrec_fast.cli.flags import flags_of, in_flags, parsed
from genrec_fast.cli.items import items_of
from genrec_fast.recipe.recommender import Recommender, load
from genrec_fast.serving.bulk_run import BulkConfig, Outcome, recommend_file

_ITEMS = tyro.conf.arg(metavar="ITEM ... | @FILE")


@dataclass(frozen=True, kw_only=True)
class RecommendMany:
    """Answers a file of users: JSON lines (also .gz) or Parquet, a history each; one answer a line, in their order.

    Run again after any end, it goes on where it was. Exit status: 0, 1 if lines have no answer, 2 if nothing was done.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """folder of the trained model"""
    input: str
    """users: .jsonl, .jsonl.gz, .parquet, or - for JSON lines of the standard input"""
    output: str
    """answers: the same endings, or - for the standard output"""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """how many items, where a line does not say"""
    exclude_seen: bool = False
    """nothing that stands in the history, where a line does not say"""
    allowed: Annotated[tuple[str, ...] | None, _ITEMS] = None
    """nothing else is recommended, where a line does not say; @FILE has an item on each line"""
    exclude: Annotated[tuple[str, ...] | None, _ITEMS] = None
    """what is not recommended, where a line does not say"""
    num_beams: int | None = None
    """the recipe's own if not given, where a line does not say"""
    unknown: Literal["refuse", "skip"] = "refuse"
    """items that the catalog does not have are their line's error, or left out and counted in its answer"""
    exact: bool = False
    """widen the search until each list is proven to be the best of the catalog, where a line does not say"""
    seed: int | None = None
    """of decoders that draw; their own if not given"""
    strict: bool = False
    """stop at the first line that is wrong, instead of writing its error in place of its answer"""
    resume: bool = True
    """go on with an unfinished run of the same command; --no-resume starts over"""
    users_per_batch: int = 256
    """users searched at once: a matter of memory and speed"""
    threads: int | None = None
    """CPU threads; all cores if not given"""
    device: str = "cpu"
    """cpu, cuda, ..."""
    ray: str | None = None
    """many machines: the address of a Ray cluster, auto for the one this machine belongs to, local for one on this
    machine; --input is Parquet and --output a folder of Parquet, on paths that all machines share"""
    ray_workers: int | None = None
    """copies of the model, --threads CPUs each (1 if not given); as many as the cluster has room for"""
    quiet: bool = False
    """no progress and no figures"""

    def defaults(self, model: Recommender) -> dict[str, Any]:
        """Fields of lines that do not have them."""
        given = {name: getattr(self, name) for name in ("k", "exclude_seen", "exact", "unknown", "num_beams", "seed")}
        for name in ("allowed", "exclude"):
            words = getattr(self, name)
            if words is not None:
                found = items_of(model, FLAGS[name], words, self.unknown == "skip")
                given[f"{name}_ids"] = [item for item in found if isinstance(item, int)]
        return {name: value for name, value in given.items() if value is not None}


FLAGS = flags_of(RecommendMany)


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether ``recommend`` is to read a file."""
    return any(argument.partition("=")[0] in ("--input", "--output") for argument in arguments)


def main(arguments: Sequence[str], program: str) -> int:
    """Runs the command: 0, or 1 if lines have no answer."""
    if {"-h", "--help"} & set(arguments):
        arguments = ["--help"]
    command = parsed(RecommendMany, f"{program} recommend", arguments)
    with in_flags(FLAGS):
        return _report(_answered(command), command)


def _answered(command: RecommendMany) -> Outcome:
    config = BulkConfig(
        users_per_batch=whole_number("recommend", "users_per_batch", command.users_per_batch),
        strict=command.strict,
        resume=command.resume,
        show=not command.quiet,
    )
    set_threads(command.threads)
    if command.ray is None:
        if command.ray_workers is not None:
            raise InvalidValueError("recommend: --ray-workers must come with --ray, got it alone")
        model = load(command.model, command.device)
        return recommend_file(model, command.input, command.output, command.defaults(model), config)
    from genrec_fast.serving.ray import ClusterConfig, recommend_on_cluster

    workers = command.ray_workers
    cluster = ClusterConfig(
        address=command.ray,
        workers=None if workers is None else whole_number("recommend", "ray_workers", workers),
        threads=command.threads or 1,
        device=command.device,
    )
    defaults = command.defaults(load(command.model))
    return recommend_on_cluster(command.model, command.input, command.output, defaults, config, cluster)


def _report(outcome: Outcome, command: RecommendMany) -> int:
    tally = outcome.tally
    if not command.quiet:
        before = tally.lines - outcome.lines
        pace = outcome.lines / max(outcome.seconds, 1e-9)
        print(
            f"{outcome.lines:,} users in {outcome.seconds:.1f} s, {pace:,.0f} a second"
            + (f", after {before:,} before" if before else "")
            + ("" if command.output == "-" else f": {command.output}"),
            file=sys.stderr,
        )
    if tally.failed:
        print(f"{tally.failed:,} of {tally.lines:,} lines have no answer; {tally.first_error}", file=sys.stderr)
    return 1 if tally.failed else 0

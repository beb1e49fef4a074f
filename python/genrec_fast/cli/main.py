"""``genrec-fast``: train, evaluate and ask recommenders from the command line.

Every option is derived from the functions and config dataclasses below by tyro; nothing heavy is imported before a
command is known to need it.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from genrec_fast._version import __version__
from genrec_fast.base.errors import GenrecError

PROGRAM = "genrec-fast"
_PATHS = ("--data", "--out", "--start", "--encoder", "--categories", "--input", "--output")
_FOLDERS = ("evaluate", "recommend", "serve", "tokenize")  # commands whose first argument is a path
_LISTS = ("history", "allowed", "candidates", "exclude", "times", "actions")  # of recommend


def _tyro(function: Callable[..., Any], command: str, arguments: Sequence[str]) -> Any:
    from genrec_fast.cli.flags import flags_of, in_flags, parsed

    @functools.wraps(function)
    def read(*values: Any, **options: Any) -> Callable[[], Any]:
        return functools.partial(function, *values, **options)

    with in_flags(flags_of(function)):
        return parsed(read, f"{PROGRAM} {command}", arguments)()


def _quickstart(arguments: Sequence[str]) -> None:
    from genrec_fast import quickstart

    def run(num_users: int = 3000, max_epochs: int = 12, k: int = 10, seed: int = 0) -> None:
        """Trains on a small made-up shop and shows what came of it; nothing to download.

        Args:
            num_users: shoppers to learn from.
            max_epochs: passes over their purchases.
            k: items to recommend.
            seed: of the shop, the shoppers and the training.
        """
        from genrec_fast.cli.pipe import PipedConsole

        quickstart.run(num_users=num_users, max_epochs=max_epochs, k=k, seed=seed, console=PipedConsole())

    _tyro(run, "quickstart", arguments)


def _train(arguments: Sequence[str]) -> None:
    from genrec_fast.cli import train as cli_train

    cli_train.main(arguments, PROGRAM)


def _evaluate(arguments: Sequence[str]) -> None:
    from genrec_fast.cli import evaluate as cli_evaluate

    cli_evaluate.main(arguments, PROGRAM)


def _recommend(arguments: Sequence[str]) -> int | None:
    from genrec_fast.cli import recommend_many
    from genrec_fast.cli.flags import check_once

    check_once("recommend", arguments, [f"--{name}" for name in _LISTS])
    if recommend_many.is_asked_for(arguments):
        from genrec_fast.cli.flags import flags_of, in_flags

        with in_flags(flags_of(recommend_many.RecommendMany)):
            return recommend_many.main(arguments, PROGRAM)
    from genrec_fast.cli import recommend as cli_recommend

    _tyro(cli_recommend.recommend, "recommend", arguments)
    return None


def _serve(arguments: Sequence[str]) -> None:
    from genrec_fast.cli import commands

    _tyro(commands.serve, "serve", arguments)


def _tokenize(arguments: Sequence[str]) -> None:
    from genrec_fast.cli import tokenize as cli_tokenize

    cli_tokenize.main(arguments, PROGRAM)


def _recipes(arguments: Sequence[str]) -> None:
    def run(markdown: bool = False) -> None:
        """Lists what can be trained.

        Args:
            markdown: the page docs/recipes.md.
        """
        from genrec_fast import recipes

        if markdown:
            from genrec_fast.recipes.page import markdown as page

            print(page(), end="")
            return
        from rich.table import Table

        from genrec_fast.cli.pipe import PipedConsole

        table = Table(box=None, pad_edge=False)
        for column in ("recipe", "source", "measured"):
            table.add_column(column, no_wrap=column == "recipe")
        for name in recipes.names():
            recipe = recipes.get(name)
            table.add_row(name, recipe.source, recipe.measured)
        PipedConsole().print(table)

    _tyro(run, "recipes", arguments)


def _env(arguments: Sequence[str]) -> int:
    from genrec_fast import env

    return env.main(list(arguments))


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int | None]]] = {
    "quickstart": ("train on a small made-up shop and look at the result; nothing to download", _quickstart),
    "train": ("train RECIPE --data DIR --out DIR [--part.field VALUE ...]; resumes by itself", _train),
    "evaluate": (
        "evaluate DIR --data DIR [--ks 1,5,10] [--json FILE]: figures beside those of baselines",
        _evaluate,
    ),
    "recommend": (
        "recommend DIR --history ITEM ITEM ... -k 10, or many users: --input FILE --output FILE",
        _recommend,
    ),
    "serve": ("serve DIR [--port 8000]: answer over HTTP, many at once (genrec-fast[serve])", _serve),
    "tokenize": ("tokenize FEATURES.npy|DIR|TEXTS --out DIR [--kind KIND]: semantic IDs, and a report", _tokenize),
    "recipes": ("what can be trained, its source, what it reached", _recipes),
    "env": ("versions, instruction set, live kernels", _env),
}


def _help() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<12}{text}" for name, (text, _) in _COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help lists the options of a command; --version the version."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if it went well, 2 if the caller can mend it, 130 after Ctrl-C, 141 if its reader is gone."""
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()  # while a closed pipe can still be told from a fault
    except BrokenPipeError:
        from genrec_fast.cli.pipe import leave_quietly

        return leave_quietly()


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in _COMMANDS:
        print(f"{PROGRAM}: unknown command {arguments[0]!r}\n{_help()}", file=sys.stderr)
        return 2
    paths = [("its first argument", arguments[1])] if len(arguments) > 1 and arguments[0] in _FOLDERS else []
    paths += [(flag, value) for flag, value in itertools.pairwise(arguments) if flag in _PATHS]
    paths += [(flag, "") for flag in _PATHS if f"{flag}=" in arguments]
    for what, value in paths:
        if value == "":  # as a path that would be the folder one stands in
            print(f"{PROGRAM}: {arguments[0]}: {what} must name a file or folder, got ''", file=sys.stderr)
            return 2
    try:
        return _COMMANDS[arguments[0]][1](arguments[1:]) or 0
    except BrokenPipeError:
        raise
    except (GenrecError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\n{PROGRAM}: {error or 'stopped'}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())

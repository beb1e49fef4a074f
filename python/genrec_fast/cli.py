"""``genrec-fast``: train, evaluate and ask recommenders from the command line.

Every option is derived from the functions and config dataclasses below by tyro; nothing heavy is imported before a
command is known to need it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from genrec_fast._version import __version__
from genrec_fast.errors import GenrecError, InvalidValueError

__all__ = ["main"]

PROGRAM = "genrec-fast"


def _tyro(function: Callable[..., Any], command: str, arguments: Sequence[str]) -> Any:
    import tyro

    return tyro.cli(function, prog=f"{PROGRAM} {command}", args=list(arguments), use_underscores=False)


def _quickstart(arguments: Sequence[str]) -> None:
    from genrec_fast import quickstart

    def run(num_users: int = 3000, max_epochs: int = 15, k: int = 10, seed: int = 0) -> None:
        """Trains on a small made-up shop and shows what came of it; nothing to download.

        Args:
            num_users: shoppers to learn from.
            max_epochs: passes over their purchases.
            k: items to recommend.
            seed: of the shop, the shoppers and the training.
        """
        quickstart.run(num_users=num_users, max_epochs=max_epochs, k=k, seed=seed)

    _tyro(run, "quickstart", arguments)


def _train(arguments: Sequence[str]) -> None:
    from genrec_fast import recipes

    known = recipes.names()
    if not arguments or arguments[0].startswith("-"):
        text = (
            f"usage: {PROGRAM} train RECIPE --data DIR --out DIR [--part.field VALUE ...]\nrecipes: {', '.join(known)}"
        )
        print(f"{text}\n{PROGRAM} train RECIPE --help lists every setting of that recipe.")
        if arguments and arguments[0] in ("-h", "--help"):
            return
        raise InvalidValueError(f"train: the first argument must be a recipe, got {' '.join(arguments) or 'none'}")
    recipe = recipes.get(arguments[0])
    _run_training(recipe, _tyro(_train_options(recipe), f"train {recipe.name}", arguments[1:]))


def _train_options(recipe: Any) -> type:
    """A dataclass of the command's own options and every part of ``recipe``, with the recipe's values as defaults."""
    import tyro

    def option(name: str, kind: Any, text: str, *default: Any) -> tuple[str, Any, Any]:
        annotated = Annotated[kind, tyro.conf.arg(help=text)]
        return (name, annotated, dataclasses.field(default=default[0]) if default else dataclasses.field())

    fields = [
        option("data", Path, "dataset folder"),
        option(
            "out", Path, "folder for checkpoint, log, curves and the finished model; resumed if it has a checkpoint"
        ),
        option("semantic_ids", Path | None, "json of published semantic IDs, in place of the tokenizer", None),
        option("seed", int, "of the weights, the dropout and the order of the batches", 0),
        option("threads", int | None, "CPU threads; all cores if not given", None),
        option("device", str | None, "cpu, cuda, ...; what there is if not given", None),
        option("resume", bool, "go on from the checkpoint in OUT; --no-resume starts over", True),
        option("test", bool, "ask all test users at the end and write test.json", True),
        option("quiet", bool, "no progress", False),
    ]
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            fields.append((field.name, type(value), dataclasses.field(default=value)))
    options = dataclasses.make_dataclass("Train", fields, kw_only=True)
    options.__doc__ = f"Trains the recipe {recipe.name} ({recipe.source})."
    return options


def _run_training(recipe: Any, options: Any) -> None:
    import torch

    from genrec_fast.commands import set_threads
    from genrec_fast.data import leave_one_out, load
    from genrec_fast.evaluation import evaluate
    from genrec_fast.files import write_text
    from genrec_fast.tokenizers import PublishedConfig
    from genrec_fast.training import train

    set_threads(options.threads)
    parts = {f.name: getattr(options, f.name) for f in dataclasses.fields(recipe) if hasattr(options, f.name)}
    if options.semantic_ids is not None:
        if recipe.tokenizer is None:
            raise InvalidValueError(f"train: semantic_ids must not be given as {recipe.name} uses none")
        parts["tokenizer"] = PublishedConfig(path=str(options.semantic_ids))
    if any(part != getattr(recipe, name) for name, part in parts.items()):
        parts["measured"] = "not yet measured"  # the figure belongs to the recipe as it is published
    objective = parts.get("objective", recipe.objective)
    data = load(options.data, actions=getattr(objective, "actions", None) or None)
    model = train(
        dataclasses.replace(recipe, **parts),
        data,
        seed=options.seed,
        out=options.out,
        resume=options.resume,
        device=options.device,
        show_progress=not options.quiet,
    )
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if options.test and first:
        result = evaluate(model, leave_one_out(data.interactions).test)
        write_text(options.out / "test.json", json.dumps(result.to_dict(), indent=2) + "\n")
        print(f"test, all users of {data.name}:\n{result}")


def _evaluate(arguments: Sequence[str]) -> None:
    from genrec_fast import commands

    _tyro(commands.evaluate, "evaluate", arguments)


def _recommend(arguments: Sequence[str]) -> None:
    from genrec_fast import commands

    _tyro(commands.recommend, "recommend", arguments)


def _serve(arguments: Sequence[str]) -> None:
    from genrec_fast import commands

    _tyro(commands.serve, "serve", arguments)


def _tokenize(arguments: Sequence[str]) -> None:
    from genrec_fast import cli_tokenize

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
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in ("recipe", "source", "measured"):
            table.add_column(column, no_wrap=column == "recipe")
        for name in recipes.names():
            recipe = recipes.get(name)
            table.add_row(name, recipe.source, recipe.measured)
        Console().print(table)

    _tyro(run, "recipes", arguments)


def _env(arguments: Sequence[str]) -> int:
    from genrec_fast import env

    return env.main(list(arguments))


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int | None]]] = {
    "quickstart": ("train on a small made-up shop and look at the result; nothing to download", _quickstart),
    "train": ("train RECIPE --data DIR --out DIR [--part.field VALUE ...]; resumes by itself", _train),
    "evaluate": ("evaluate DIR --data DIR [--json]: recall, NDCG over all users", _evaluate),
    "recommend": ("recommend DIR --history ITEM ITEM ... -k 10 [--exclude-seen]", _recommend),
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
    """Runs one command; 0 if it went well, 2 if the caller can mend it, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in _COMMANDS:
        print(f"{PROGRAM}: unknown command {arguments[0]!r}\n{_help()}", file=sys.stderr)
        return 2
    try:
        return _COMMANDS[arguments[0]][1](arguments[1:]) or 0
    except (GenrecError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\n{PROGRAM}: {error or 'stopped'}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())

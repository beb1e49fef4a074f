"""``genrec-fast tokenize``: the options of whichever tokenizer is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.cli.commands import set_threads
from genrec_fast.cli.data_options import NO_OPTIONS, DataOptions
from genrec_fast.cli.flags import check_once, flags_of, in_flags, option, parsed
from genrec_fast.cli.tokenize_files import kinds, read_source, tokenize
from genrec_fast.training.log import StageBar

_DEFAULT = "rqkmeans"


def main(arguments: Sequence[str], program: str) -> None:
    """Reads the options and does it; ``--kind`` decides which options ``--tokenizer`` has."""
    known = kinds()
    check_once("tokenize", arguments, ["--kind"])
    kind = _kind(arguments)
    if kind not in known:
        raise InvalidValueError(f"tokenize: --kind must be one of {', '.join(known)}, got {kind!r}")
    options = _options(kind, known)
    with in_flags(flags_of(options)):
        _run(parsed(options, f"{program} tokenize", arguments))


def _run(options: Any) -> None:
    set_threads(options.threads)
    show = not options.quiet
    source = read_source(
        options.source,
        encoder=options.encoder,
        text_columns=options.text_columns,
        category_columns=options.category_columns,
        categories=options.categories,
        device=options.device,
        show_progress=show,
        reading=options.reading,
    )
    with StageBar(show) as bar:
        said = tokenize(source, options.out, options.tokenizer, seed=options.seed, progress=bar)
    print(said)


def _kind(arguments: Sequence[str]) -> str:
    for place, argument in enumerate(arguments):
        if argument == "--kind" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith("--kind="):
            return argument.removeprefix("--kind=")
    return _DEFAULT


def _options(kind: str, known: dict[str, type]) -> Any:
    fields = [
        option(
            "source",
            tyro.conf.Positional[Path],
            "features (.npy, float [N, F]), a dataset folder, or item texts (.txt, .csv, .tsv, .jsonl)",
        ),
        option("out", Path, "folder for the codes, the tokenizer and the report"),
        option("kind", Literal[tuple(known)], "which tokenizer; --kind KIND --help lists its settings", kind),
        option("encoder", Path | None, "texts: folder with a sentence-transformers model", None),
        option("text_columns", tuple[str, ...], "of a table of items; its usual names if not given", ()),
        option("category_columns", tuple[str, ...], "of a table of items, from coarse to fine", ()),
        option("categories", Path | None, ".npy of integers [N] or [N, depth], -1: unknown; else the dataset's", None),
        ("reading", tyro.conf.OmitArgPrefixes[DataOptions], dataclasses.field(default=NO_OPTIONS)),
        option("seed", int, "of all randomness", 0),
        option("threads", int | None, "CPU threads; all cores if not given", None),
        option("device", str | None, "of the encoder", None),
        option("quiet", bool, "no progress", False),
        ("tokenizer", known[kind], dataclasses.field(default_factory=known[kind])),
    ]
    options = dataclasses.make_dataclass("Tokenize", fields, kw_only=True)
    options.__doc__ = f"Makes semantic IDs by {kind}, and tells how good they are."
    return options

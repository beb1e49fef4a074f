"""``genrec-fast evaluate``: a trained model and what it has to beat, in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.files import write_text
from genrec_fast.cli.commands import set_threads
from genrec_fast.cli.data_options import NO_OPTIONS, DataOptions
from genrec_fast.cli.flags import check_once, flags_of, in_flags, parsed
from genrec_fast.cli.items import items_of
from genrec_fast.evaluation import evaluate
from genrec_fast.evaluation.protocol import KS, PROTOCOL, protocol_facts
from genrec_fast.recipe.recommender import load


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Asks a trained model every question of a dataset: full ranking, all users."""

    model: Annotated[Path, tyro.conf.Positional]
    """folder of the trained model"""
    data: Path
    """dataset folder, or its file of interactions"""
    reading: tyro.conf.OmitArgPrefixes[DataOptions] = NO_OPTIONS
    """how it is read"""
    protocol: bool = False
    """the published protocol and nothing else: the last item of every user, all items ranked, 5 and 10, seen items kept
    and removed; refuses options that would change it, and says what the figures depend on"""
    split: Literal["test", "validation"] = "test"
    """which questions"""
    ks: tuple[str, ...] = ("5", "10")
    """where the lists are cut: 1,5,10,50"""
    seen: Literal["kept", "removed", "both"] = "both"
    """whether what a user has seen stays among the answers; both takes two searches"""
    allowed: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="ITEM ... | @FILE")] = None
    """the only items that may be answered with, by the model and the baselines: names, words of titles, id:NUMBER"""
    baselines: bool = True
    """popularity, the transition graph and, with item features, neighbours of the last item beside the model"""
    num_beams: int | None = None
    """the recipe's own if not given"""
    users_per_batch: int = 256
    """a matter of memory and speed"""
    threads: int | None = None
    """CPU threads; all cores if not given"""
    device: str = "cpu"
    """cpu, cuda, ..."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE|-")] = None
    """write everything as JSON, to a file beside the table, or in place of it: -, or nothing behind the option"""


def main(arguments: Sequence[str], program: str) -> None:
    """Reads the options, asks, and prints."""
    check_once("evaluate", arguments, ("--allowed", "--ks"))
    with in_flags(flags_of(Evaluate)):
        _run(parsed(Evaluate, f"{program} evaluate", _json_named(arguments)))


def _run(read: Evaluate) -> None:
    set_threads(read.threads)
    ks = _ks(read.ks)
    if read.protocol:
        _check_protocol(read, ks)
    if read.num_beams is not None and read.num_beams < 1:
        raise InvalidValueError(f"evaluate: num_beams must be at least 1, got {read.num_beams}")
    target = None if read.json in (None, "-") else Path(str(read.json))
    if target is not None and target.is_dir():
        raise InvalidValueError(f"evaluate: json must be a file or -, got the folder {target}")
    model = load(read.model, read.device)
    dataset = read.reading.load(read.data, actions=model.actions or None)
    if dataset.interactions.item_ids != model.item_ids:
        raise InvalidValueError(
            f"evaluate: data must have the items that {read.model} was trained on, got {read.data} "
            f"({dataset.num_items:,} items in place of {model.num_items:,}, or other names, or another order)"
        )
    splits = read.reading.splits(dataset)
    asked = splits.test if read.split == "test" else splits.validation
    if not len(asked):
        raise InvalidValueError(
            f"evaluate: data must have users to ask for --split {read.split}, got none in {read.data}: without "
            "--time-split users of three events or more, with it events in its period after others of the same user"
        )
    result = evaluate(
        model,
        asked,
        ks=ks,
        num_beams=read.num_beams,
        users_per_batch=read.users_per_batch,
        train=splits.train if read.baselines else None,
        seen=read.seen,
        allowed=None if read.allowed is None else items_of(model, "--allowed", read.allowed, False, op="evaluate"),
    )
    found = result.to_dict()
    if read.protocol:
        found["protocol"] = protocol_facts(model, dataset, asked)
    if target is not None:
        write_text(target, json.dumps(found, indent=2) + "\n")
    if read.json == "-":
        print(json.dumps(found))
    else:
        if read.protocol:
            print("\n".join([*PROTOCOL, *(f"{name}: {value}" for name, value in _shown(found["protocol"])), ""]))
        ranked = f"every one of {model.num_items:,} items" if read.allowed is None else "the allowed items alone"
        print(f"{read.split}, all users of {dataset.name}, {ranked} ranked\n\n{result}")


def _check_protocol(read: Evaluate, ks: tuple[int, ...]) -> None:
    """Raises InvalidValueError where an option asks for something else than the published protocol."""
    reading = read.reading
    wrong = {
        "split": read.split != "test",
        "ks": ks != KS,
        "seen": read.seen != "both",
        "allowed": read.allowed is not None,
        "time_split": reading.time_split is not None,
        "min_rating": reading.min_rating is not None,
        "k_core": reading.k_core is not None,
    }
    for name, given in wrong.items():
        if given:
            raise InvalidValueError(f"evaluate: {name} must be left out with --protocol, got it as well")


def _shown(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What the figures depend on, in words."""
    return [(name.replace("_", " "), str(value)) for name, value in facts.items() if name != "rules"]


def _json_named(arguments: Sequence[str]) -> list[str]:
    """``--json`` without a file is ``--json -``."""
    out = list(arguments)
    for place, argument in enumerate(arguments):
        if argument == "--json" and (place + 1 == len(out) or out[place + 1].startswith("--")):
            out[place] = "--json=-"
    return out


def _ks(given: tuple[str, ...]) -> tuple[int, ...]:
    """Ascending numbers, from words that may hold several, with commas between."""
    words = [word for text in given for word in text.split(",") if word]
    if not words or not all(word.isascii() and word.isdigit() and 0 < int(word) < 1 << 31 for word in words):
        raise InvalidValueError(f"evaluate: ks must be whole numbers from 1 such as 1,5,10, got {' '.join(given)!r}")
    return tuple(sorted({int(word) for word in words}))

"""``python -m tests.fuzz --seconds 60``: see ``--help``."""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("GENREC_FAST_STRICT", "1")  # a missing kernel is an error, not a slow twin compared with itself

import torch

from . import targets
from .again import again
from .case import TARGETS
from .engine import Engine, sanitized
from .report import text


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random calls of everything public.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, help="so many cases (of some 48 calls each) instead of a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="targets whose name begins with NAME"
    )
    parser.add_argument("--without", action="append", default=[], metavar="NAME")
    parser.add_argument("--call", metavar="TARGET:N", help="make one call again, and print it")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0 if sanitized() else 30.0,
        help="seconds until a call is a hang (65,536 beams are legal, and slow)",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.list:
        print("\n".join(sorted(TARGETS)))
        return 0
    if chosen.call:
        return again(chosen.seed, *chosen.call.rsplit(":", 1))
    names = [n for n in sorted(TARGETS) if not chosen.only or any(n.startswith(o) for o in chosen.only)]
    names = [n for n in names if not any(n.startswith(o) for o in chosen.without)]
    if not names:
        parser.error("no target has such a name: see --list")
    if any(name.startswith("hf.") for name in names):
        targets.language.warm()
    seconds = chosen.seconds if chosen.cases is None else float("inf")
    outcome = Engine(chosen.seed, names, chosen.patience).run(seconds, chosen.cases)
    print(text(outcome, chosen.seed))
    return 1 if outcome.groups else 0


if __name__ == "__main__":
    sys.exit(main())

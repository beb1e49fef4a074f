"""Which training a folder belongs to: ``run.json``, one small file that says it for all others."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from genrec_fast.base.errors import CorruptFileError
from genrec_fast.base.files import write_text

NAME = "run.json"
FORMAT = "genrec_fast.run"
_STATES = ("begun", "clearing")
_BYTES = 1 << 16


@dataclass(frozen=True)
class Run:
    """One training, from its first step to its last, however often it was stopped and resumed."""

    name: str
    """drawn at its beginning: 16 hexadecimal digits"""
    clearing: bool = False
    """whether the files of the run before are being removed; they do not count any more"""


def read_run(folder: Path) -> Run | None:
    """The run of a folder; ``None`` where there was none, or one of before there were names.

    Raises:
        CorruptFileError: the file is altered.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_BYTES))
        name, state = content["run"], content["state"]
        if content["format"] == FORMAT and state in _STATES and re.fullmatch(r"[0-9a-f]{16}", name):
            return Run(name, state == "clearing")
        raise CorruptFileError(f"run: {path} must name a run, got {name!r:.40} {state!r:.40}; remove it to go on")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"run: {path} is cut short or altered ({error!r:.80}); remove it to go on") from error


def write_run(folder: Path, run: Run) -> None:
    """Says which run a folder belongs to, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    state = "clearing" if run.clearing else "begun"
    write_text(folder / NAME, json.dumps({"format": FORMAT, "run": run.name, "state": state}, indent=2) + "\n")

"""A value that the parser cannot take, in the house's words: the flag, the rule, the value."""

from __future__ import annotations

import re
from collections.abc import Sequence

from genrec_fast.base.errors import InvalidValueError

_BOX = re.compile("[\u2500-\u257f]+")  # lines and corners that a terminal's box is drawn with
_VALUE = re.compile(r"Error parsing (?:-\w/)?(--[\w.-]+)(?:/\S+)?: (.*?)(?: -{3,}| Argument helptext)")
_CHOICE = re.compile(r"invalid choice '(.*?)' for argument '(?:-\w/)?(--[\w.-]+)[^']*'\. Expected one of \((.*?)\)")
_NONE = re.compile(r"Missing value for argument '(?:-\w/)?(--[\w.-]+)")
_COUNT = re.compile(r"expected argument count (\d+)")
_KIND = r" (?:\{None\}\|)?[\[({]*(INT|FLOAT)\b"  # as the help has it behind the flag
_RULES = {"INT": ("a whole number", "whole numbers"), "FLOAT": ("a number", "numbers")}


def refused_value(said: str, op: str, arguments: Sequence[str]) -> InvalidValueError | None:
    """The error that stands in the text of the parser; ``None`` where it complains about something else.

    Args:
        said: the text, as it would be shown.
        op: the command.
        arguments: that were parsed.
    """
    text = " ".join(_BOX.sub(" ", said).split())
    if found := _CHOICE.search(text):
        choices = ", ".join(choice.strip().strip("'\"") for choice in found[3].split(",") if choice.strip())
        return InvalidValueError(f"{op}: {found[2]} must be one of {choices}, got {found[1]!r:.80}")
    if found := _NONE.search(text):
        return InvalidValueError(f"{op}: {found[1]} must have a value, got none")
    found = _VALUE.search(text)
    if found is None:
        return None
    flag, reason = found.groups()
    values = _behind(flag, arguments)
    got = " ".join(values)
    if count := _COUNT.search(reason):
        return InvalidValueError(f"{op}: {flag} must have {count[1]} values, got {got!r:.80}")
    kind = re.search(re.escape(flag) + _KIND, text)
    if kind is None:
        return None
    rule = _RULES[kind[1]][len(values) > 1]
    return InvalidValueError(f"{op}: {flag} must be {rule}, got {got!r:.80}")


def _behind(flag: str, arguments: Sequence[str]) -> list[str]:
    """The words behind the last place of a flag; a letter that stands for it is its first."""
    short = f"-{flag[2]}"
    found: list[str] = []
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in (flag, short):
            behind = arguments[place + 1 :]
            end = next((at for at, word in enumerate(behind) if re.match(r"--\w", word)), len(behind))
            found = [value] if value else list(behind[:end])
    return found

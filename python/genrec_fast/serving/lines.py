"""One user's question as a line of a file has it, and lines of a kind as one body of the server."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from genrec_fast.base.checks import shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.serving.http_body import FIELDS

__all__ = ["checked_line", "joined_lines", "kind_of_line", "marks_of_line"]

# A field of a line -> the field of a body that has one entry for each history.
_OF_ONE = {
    "history": "histories",
    "history_ids": "history_ids",
    "user": "users",
    "times": "timestamps",
    "at": "target_timestamps",
    "actions": "actions",
    "candidates": "candidates",
    "candidate_ids": "candidate_ids",
    "exclude": "exclude",
    "exclude_ids": "exclude_ids",
}
_LISTS = ("candidates", "candidate_ids", "exclude", "exclude_ids")  # of one user; in a body also for everybody
_OF_ALL = tuple(name for name in FIELDS if name not in _OF_ONE.values() and name != "timeout")
_TWINS = (("exclude", "exclude_ids"), ("candidates", "candidate_ids"), ("allowed", "allowed_ids"))
_LINE = ("id", *_OF_ONE, *_OF_ALL)


def checked_line(line: Any, defaults: Mapping[str, Any], reads_users: bool = False) -> dict[str, Any]:
    """A line's fields, ``defaults`` where it does not say; what is ``null`` was not said.

    A text as ``user`` is a name of the caller's, which is left out here; where the model ``reads_users`` it must be a
    row of the training data.

    Raises:
        InvalidTypeError: no object; an ``id`` that is neither a text nor a whole number.
        InvalidValueError: an unknown field, no history, or two.
    """
    if not isinstance(line, Mapping):
        raise InvalidTypeError(
            f'recommend: each line must be an object such as {{"history": ["item17"]}}, got {shown(line)}'
        )
    given = {name: value for name, value in line.items() if value is not None}
    unknown = [name for name in given if name not in _LINE]
    if unknown:
        raise InvalidValueError(f"recommend: fields of a line must be of {', '.join(_LINE)}, got {unknown[0]!r:.80}")
    if "history" not in given and "history_ids" not in given:
        raise InvalidValueError("recommend: history must be given (or history_ids), got none")
    if isinstance(given.get("id"), bool) or not isinstance(given.get("id", ""), (str, int)):
        raise InvalidTypeError(f"recommend: id must be a text or a whole number, got {shown(given['id'])}")
    if isinstance(given.get("user"), str):
        if reads_users:
            raise InvalidTypeError(
                "recommend: user must be a row of the training data, a whole number from 0, as this model reads who "
                f"asks (a name of your own goes into id), got {given['user']!r:.80}"
            )
        del given["user"]
    for name in _LISTS:
        if name in given and not isinstance(given[name], list):
            raise InvalidTypeError(f"recommend: {name} must be a list, got {given[name]!r:.80}")
    own = {twin for pair in _TWINS if pair[0] in given or pair[1] in given for twin in pair}
    return {**{name: value for name, value in defaults.items() if name not in own}, **given}


def marks_of_line(line: Any) -> dict[str, Any]:
    """What an answer repeats, to be told from others: ``id`` and ``user``, as far as they can be read."""
    if not isinstance(line, Mapping):
        return {}
    marks = {name: line.get(name) for name in ("id", "user")}
    return {name: value for name, value in marks.items() if isinstance(value, (str, int))}


def kind_of_line(line: Mapping[str, Any], defaults: Mapping[str, Any]) -> Hashable:
    """Checked lines of equal kinds may stand in one body; ``defaults``: as they were checked with."""
    # A default may be a list of many items: it is not written out for every line.
    shared = {name: line[name] for name in _OF_ALL if name in line and line[name] is not defaults.get(name)}
    return tuple(name in line for name in _OF_ONE), json.dumps(shared, sort_keys=True)


def joined_lines(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body that asks what lines of one kind ask, in their order."""
    first = lines[0]
    body = {name: first[name] for name in _OF_ALL if name in first}
    return body | {of_all: [line[name] for line in lines] for name, of_all in _OF_ONE.items() if name in first}

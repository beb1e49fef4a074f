"""One user's question as a line of a file has it, and lines of a kind as one body of the server."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from torch import Tensor

from genrec_fast.base.checks import as_whole, check_dense, shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.serving.http_body import FIELDS

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
# Items for one user; in a body also for everybody, or a list for each.
_LISTS = ("allowed", "allowed_ids", "candidates", "candidate_ids", "exclude", "exclude_ids")
_OF_ALL = tuple(name for name in FIELDS if name not in _OF_ONE.values() and name != "timeout")
_TWINS = (("exclude", "exclude_ids"), ("candidates", "candidate_ids"), ("allowed", "allowed_ids"))
_LINE = ("id", *_OF_ONE, *_OF_ALL)
_JSON = {str, bool, int, float, type(None)}


def plain_field(name: str, value: Any, levels: int = 2) -> Any:
    """A field as JSON has it: tuples, arrays and tensors become lists, so do sets of items.

    Args:
        name: of the field.
        value: what stands there.
        levels: lists within lists that are left.

    Raises:
        InvalidTypeError: it holds what JSON has no word for, or what no field is: a date, bytes, a mapping.
    """
    if isinstance(value, Tensor):
        check_dense("recommend", name, value)
        value = value.tolist()
    elif hasattr(value, "__array__"):  # numpy's arrays and numbers, and the columns of tables
        value = np.asarray(value).tolist()
    if type(value) in _JSON or isinstance(value, (str, int)):
        return value
    if isinstance(value, Set) and name in _LISTS:
        value = sorted(value, key=str)  # equal sets are equal questions
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)) and levels:
        if isinstance(value, list) and _JSON.issuperset(map(type, value)):
            return value
        return [plain_field(name, part, levels - 1) for part in value]
    raise InvalidTypeError(
        f"recommend: {name} must be of texts, numbers, true or false, or lists of them, got {shown(value)}"
    )


def checked_line(line: Any, defaults: Mapping[str, Any], reads_users: bool = False) -> dict[str, Any]:
    """A line's fields, ``defaults`` where it does not say; what is ``null`` was not said.

    A text as ``user`` is a name of the caller's, which is left out here; where the model ``reads_users`` it must be a
    row of the training data.

    Raises:
        InvalidTypeError: no object; an ``id`` that is neither a text nor a whole number; a value that no field has.
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
    given = {name: plain_field(name, value) for name, value in given.items()}
    if "history" not in given and "history_ids" not in given:
        raise InvalidValueError("recommend: history must be given (or history_ids), got none")
    given |= {name: as_whole(given[name]) for name in ("id", "user") if name in given}
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
        if any(isinstance(part, list) for part in given.get(name, ())):
            raise InvalidTypeError(
                f"recommend: {name} must be a list of items, as a line is one user's, got {given[name]!r:.80}"
            )
    own = {twin for pair in _TWINS if pair[0] in given or pair[1] in given for twin in pair}
    return {**{name: value for name, value in defaults.items() if name not in own}, **given}


def marks_of_line(line: Any) -> dict[str, Any]:
    """What an answer repeats, to be told from others: ``id`` and ``user``, as far as they can be read."""
    if not isinstance(line, Mapping):
        return {}
    marks = {name: line.get(name) for name in ("id", "user")}
    marks = {name: as_whole(value.item() if isinstance(value, np.generic) else value) for name, value in marks.items()}
    return {
        name: value for name, value in marks.items() if isinstance(value, (str, int)) and not isinstance(value, bool)
    }


def kind_of_line(line: Mapping[str, Any], defaults: Mapping[str, Any]) -> Hashable:
    """Checked lines of equal kinds may stand in one body; ``defaults``: as they were checked with.

    Raises:
        InvalidValueError: a number of thousands of digits.
    """
    # A default may be a list of many items: it is not written out for every line.
    shared = {name: line[name] for name in _OF_ALL if name in line and line[name] is not defaults.get(name)}
    try:
        return tuple(name in line for name in _OF_ONE), json.dumps(shared, sort_keys=True)
    except ValueError as error:  # Python writes out no such number
        raise InvalidValueError(
            f"recommend: numbers must be below 2^63, got one of thousands of digits in {' or '.join(shared)}"
        ) from error


def joined_lines(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body that asks what lines of one kind ask, in their order."""
    first = lines[0]
    body = {name: first[name] for name in _OF_ALL if name in first}
    return body | {of_all: [line[name] for line in lines] for name, of_all in _OF_ONE.items() if name in first}

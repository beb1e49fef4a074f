"""The bodies of the server: JSON to the arguments of a search, and what was found to JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from genrec_fast.base.batch import Ranked
from genrec_fast.base.checks import as_whole, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.items import Items
from genrec_fast.base.query import Options, skips
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.action_marks import marked

_IDS = {
    "histories": "history_ids",
    "allowed": "allowed_ids",
    "candidates": "candidate_ids",
    "exclude": "exclude_ids",
}
"""fields of names, and those that hold ids in their place"""
FIELDS = ("histories", "k", *Options.__annotations__, "timeout", *_IDS.values())


class Limits(Protocol):
    """What a server allows."""

    @property
    def timeout(self) -> float: ...
    @property
    def max_users(self) -> int: ...
    @property
    def max_k(self) -> int: ...


def question_of(body: Mapping[str, Any], model: Recommender, limits: Limits) -> dict[str, Any]:
    """The arguments of ``Batcher.submit``.

    Items are named by their outside names in ``histories``, ``allowed``, ``candidates`` and ``exclude``; a number is
    the name with these digits, never an id. Ids stand in ``history_ids``, ``allowed_ids``, ... in their place.

    Raises:
        InvalidTypeError: a field of another type.
        InvalidValueError: an unknown field or item, a value that is not allowed.
    """
    unknown = [name for name in body if name not in FIELDS]
    if unknown:
        raise InvalidValueError(f"recommend: fields must be of {', '.join(FIELDS)}, got {unknown[0]!r:.80}")
    given = {name: value for name, value in body.items() if value is not None}
    items = Items("recommend", model, skips("recommend", given.get("unknown", "refuse")))
    name = _field("histories", given)
    if name not in given:
        raise InvalidValueError("recommend: histories must be given (or history_ids), got none")
    histories = [_read(name, row, items) for row in _list(name, given[name])]
    if len(histories) > limits.max_users:
        raise InvalidValueError(f"recommend: {name} must be at most {limits.max_users}, got {len(histories)}")
    arguments: dict[str, Any] = {"histories": histories, "k": 10}
    if "k" in given:
        arguments["k"] = whole_number("recommend", "k", given["k"], most=limits.max_k)
    if "num_beams" in given:  # one number, or one for each level
        beams = given["num_beams"]
        widths = [
            whole_number("recommend", "num_beams", width) for width in (beams if isinstance(beams, list) else [beams])
        ]
        arguments["num_beams"] = tuple(widths) if isinstance(beams, list) else widths[0]
    arguments["k"] = min(arguments["k"], model.num_items)  # there are no more results than that
    for option in ("allowed", "candidates", "exclude"):
        name = _field(option, given)
        if name in given:
            row = _list(name, given[name])
            each = any(isinstance(part, list) for part in row)
            arguments[option] = [_read(name, part, items) for part in row] if each else _read(name, row, items)
    arguments |= {name: read(name, given[name]) for name, read in PLAIN.items() if name in given}
    marks = [_list("actions", row) for row in _list("actions", given["actions"])] if "actions" in given else None
    arguments["actions"] = marked(model, marks, [len(history) for history in histories])
    timeout = _number("timeout", given.get("timeout", limits.timeout))
    if not timeout > 0:
        raise InvalidValueError(f"recommend: timeout must be above 0, got {timeout}")
    return arguments | {"timeout": min(timeout, limits.timeout)}


def answer_of(ranked: Ranked, model: Recommender) -> list[dict[str, Any]]:
    """One object for each history; ``bound`` is ``null`` where nothing was pruned."""
    return [
        {
            "items": [entry._asdict() for entry in items],
            "exact": exact,
            "bound": bound if math.isfinite(bound) else None,
            "basis": basis,
            "skipped": skipped,
        }
        for items, exact, bound, basis, skipped in zip(
            model.named(ranked),
            ranked.exact.tolist(),
            ranked.bound.tolist(),
            ranked.based_on,
            [0] * len(ranked) if ranked.skipped is None else ranked.skipped.tolist(),
            strict=True,
        )
    ]


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidTypeError(f"recommend: {name} must be a list, got {value!r:.80}")
    return value


def _whole(name: str, value: object, any_size: bool = False) -> int:
    value = as_whole(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"recommend: {name} must hold whole numbers, got {value!r:.80}")
    if any_size:
        return value if abs(value) < 1 << 63 else -1
    if not 0 <= value < 1 << 63:
        raise InvalidValueError(f"recommend: {name} must hold whole numbers in [0, 2^63), got {value!s:.80}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"recommend: {name} must be of numbers, got {value!r:.80}")
    if not abs(value) < 1 << 62:  # NaN too
        raise InvalidValueError(f"recommend: {name} must be of numbers below 2^62, got {value!s:.80}")
    return float(value)


def _field(named: str, given: Mapping[str, Any]) -> str:
    """The field that is given: the one that names items, or the one that holds their ids."""
    numbered = _IDS[named]
    if named in given and numbered in given:
        raise InvalidValueError(f"recommend: {named} must not be given beside {numbered}, got both")
    return numbered if numbered in given else named


def _read(field: str, row: object, items: Items) -> list[int]:
    """Item ids of one list of names, where a number is the name with these digits, or of ids; -1: to be skipped."""
    if field in _IDS.values():
        numbers = [_whole(field, item, items.skip) for item in _list(field, row)]
        return items.rows(field, [numbers]).values.tolist()
    words = []
    for item in map(as_whole, _list(field, row)):
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise InvalidTypeError(f"recommend: {field} must hold names, texts or whole numbers, got {item!r:.80}")
        words.append(str(item))
    try:
        return items.rows(field, [words]).values.tolist()
    except InvalidValueError as error:
        raise InvalidValueError(f"{error}; item ids have a field of their own, {_IDS[field]}") from error


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidTypeError(f"recommend: {name} must be true or false, got {value!r:.80}")
    return value


# How the options are read whose JSON is their value; the others (widths with a limit, items by name, actions by word)
# are read above.
PLAIN: dict[str, Callable[[str, Any], Any]] = {
    "exact": _flag,
    "exclude_seen": _flag,
    "unknown": lambda name, value: value,  # read before
    "users": lambda name, value: [_whole(name, user) for user in _list(name, value)],
    "timestamps": lambda name, value: [[_number(name, at) for at in _list(name, row)] for row in _list(name, value)],
    "target_timestamps": lambda name, value: [_number(name, at) for at in _list(name, value)],
    "seed": _whole,
}

"""The bodies of the server: JSON to the arguments of a search, and what was found to JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec_fast.base.batch import Ranked
from genrec_fast.base.checks import whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.query import Options
from genrec_fast.recipe.recommender import Recommender
from genrec_fast.serving.action_marks import marked

__all__ = ["FIELDS", "PLAIN", "Limits", "answer_of", "question_of"]

FIELDS = ("histories", "k", *Options.__annotations__, "timeout", "history_ids", "allowed_ids", "exclude_ids")


class Limits(Protocol):
    """What a server allows."""

    @property
    def timeout(self) -> float: ...
    @property
    def max_users(self) -> int: ...
    @property
    def max_k(self) -> int: ...
    @property
    def max_num_beams(self) -> int: ...


def question_of(body: Mapping[str, Any], model: Recommender, limits: Limits) -> dict[str, Any]:
    """The arguments of ``Batcher.submit``.

    Items are named by their outside names in ``histories``, ``allowed`` and ``exclude``; a number is the name with
    these digits, never an id. Ids stand in ``history_ids``, ``allowed_ids`` and ``exclude_ids`` in their place.

    Raises:
        InvalidTypeError: a field of another type.
        InvalidValueError: an unknown field or item, a value that is not allowed.
    """
    unknown = [name for name in body if name not in FIELDS]
    if unknown:
        raise InvalidValueError(f"recommend: fields must be of {', '.join(FIELDS)}, got {unknown[0]!r:.80}")
    given = {name: value for name, value in body.items() if value is not None}
    name, read = _either("histories", "history_ids", given)
    if name not in given:
        raise InvalidValueError("recommend: histories must be given (or history_ids), got none")
    histories = [read(name, row, model) for row in _list(name, given[name])]
    if len(histories) > limits.max_users:
        raise InvalidValueError(f"recommend: {name} must be at most {limits.max_users}, got {len(histories)}")
    arguments: dict[str, Any] = {"histories": histories, "k": 10}
    for name, most in (("k", limits.max_k), ("num_beams", limits.max_num_beams)):
        if name in given:
            arguments[name] = whole_number("recommend", name, given[name])
            if arguments[name] > most:
                raise InvalidValueError(f"recommend: {name} must be at most {most}, got {given[name]}")
    arguments["k"] = min(arguments["k"], model.num_items)  # there are no more results than that
    name, read = _either("allowed", "allowed_ids", given)
    if name in given:
        arguments["allowed"] = _mask(read(name, given[name], model), model)
    name, read = _either("exclude", "exclude_ids", given)
    if name in given:
        arguments["exclude"] = Jagged.from_rows([read(name, row, model) for row in _list(name, given[name])])
    arguments |= {name: read(name, given[name]) for name, read in PLAIN.items() if name in given}
    marks = [_list("actions", row) for row in _list("actions", given["actions"])] if "actions" in given else None
    arguments["actions"] = marked(model, marks, [len(history) for history in histories])
    timeout = _number("timeout", given.get("timeout", limits.timeout))
    if not timeout > 0:
        raise InvalidValueError(f"recommend: timeout must be above 0, got {timeout}")
    return arguments | {"timeout": min(timeout, limits.timeout)}


def answer_of(ranked: Ranked, model: Recommender) -> list[dict[str, Any]]:
    """One object for each history; ``bound`` is ``null`` where nothing was pruned."""
    results = []
    for items, scores, exact, bound in zip(
        ranked.items.tolist(), ranked.scores.tolist(), ranked.exact.tolist(), ranked.bound.tolist(), strict=True
    ):
        found = [
            {"item": model.item_ids[item], "id": item, "score": score, "title": model.title(item)}
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        ]
        results.append({"items": found, "exact": exact, "bound": bound if math.isfinite(bound) else None})
    return results


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidTypeError(f"recommend: {name} must be a list, got {value!r:.80}")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"recommend: {name} must hold whole numbers, got {value!r:.80}")
    if not 0 <= value < 1 << 63:
        raise InvalidValueError(f"recommend: {name} must hold whole numbers in [0, 2^63), got {value!s:.80}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"recommend: {name} must be of numbers, got {value!r:.80}")
    if not abs(value) < 1 << 62:  # NaN too
        raise InvalidValueError(f"recommend: {name} must be of numbers below 2^62, got {value!s:.80}")
    return float(value)


def _either(
    named: str, numbered: str, given: Mapping[str, Any]
) -> tuple[str, Callable[[str, object, Recommender], list[int]]]:
    """The field that names items, or the one that holds their ids, and how it is read."""
    if numbered not in given:
        return named, _names
    if named in given:
        raise InvalidValueError(f"recommend: {named} must not be given beside {numbered}, got both")
    return numbered, _ids


def _names(field: str, row: object, model: Recommender) -> list[int]:
    """Item ids of one list of names; a number is the name with these digits."""
    words = []
    for item in _list(field, row):
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise InvalidTypeError(f"recommend: {field} must hold names, texts or whole numbers, got {item!r:.80}")
        words.append(str(item))
    try:
        return model.numbers(words, what=f"recommend: each item of {field}")
    except InvalidValueError as error:
        ids = "history_ids" if field == "histories" else f"{field}_ids"
        raise InvalidValueError(f"{error}; item ids have a field of their own, {ids}") from error


def _ids(field: str, row: object, model: Recommender) -> list[int]:
    """One list of item ids."""
    numbers = [_whole(field, item) for item in _list(field, row)]
    for number in numbers:
        if number >= model.num_items:
            raise InvalidValueError(f"recommend: {field} must hold item ids in [0, {model.num_items}), got {number}")
    return numbers


def _mask(items: list[int], model: Recommender) -> Tensor:
    mask = torch.zeros(model.num_items, dtype=torch.bool)
    mask[torch.tensor(items, dtype=torch.int64)] = True
    return mask


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidTypeError(f"recommend: {name} must be true or false, got {value!r:.80}")
    return value


# How the options are read whose JSON is their value; the others (widths with a limit, items by name, actions by word)
# are read above.
PLAIN: dict[str, Callable[[str, Any], Any]] = {
    "exact": _flag,
    "exclude_seen": _flag,
    "users": lambda name, value: [_whole(name, user) for user in _list(name, value)],
    "timestamps": lambda name, value: [[_number(name, at) for at in _list(name, row)] for row in _list(name, value)],
    "target_timestamps": lambda name, value: [_number(name, at) for at in _list(name, value)],
    "seed": _whole,
}

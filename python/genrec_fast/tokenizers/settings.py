"""Settings of tokenizers to and from JSON, settings inside settings included."""

from __future__ import annotations

import dataclasses
from typing import Any

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.registry import known_configs

__all__ = ["from_plain", "to_plain"]


def to_plain(config: Any) -> dict[str, Any]:
    """The fields of a config; a config inside it carries its class name as ``kind``.

    Raises:
        InvalidTypeError: a config inside it that ``genrec_fast.tokenizers`` does not name and nobody registered.
    """
    return {field.name: _plain(getattr(config, field.name), field.name) for field in dataclasses.fields(config)}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(part, where) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    name = type(value).__name__
    if _known().get(name) is not type(value):
        raise InvalidTypeError(f"save: {where} must be of a config type of genrec_fast.tokenizers, got {name}")
    return {"kind": name} | to_plain(value)


def from_plain(kind: type, fields: dict[str, Any]) -> Any:
    """The config of type ``kind`` that ``to_plain`` took apart.

    Raises:
        InvalidValueError: a field or kind that is not known, or a value out of range.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(fields.keys() - known):
        raise InvalidValueError(f"load: {kind.__name__} must have no field {unknown[0]!r}, got one")
    return kind(**{name: _built(value) for name, value in fields.items()})


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_built(part) for part in value)
    if not isinstance(value, dict):
        return value
    kind = _known().get(str(value.get("kind")))
    if kind is None:
        raise InvalidValueError(
            f"load: kind must name a config type of genrec_fast.tokenizers, got {value.get('kind')!r}"
        )
    return from_plain(kind, {name: part for name, part in value.items() if name != "kind"})


def _known() -> dict[str, type]:
    """The list is explicit: a file can name nothing else."""
    from genrec_fast import tokenizers  # not at the top: it imports this file

    found: dict[str, type] = {n: getattr(tokenizers, n) for n in tokenizers.__all__ if n.endswith("Config")}
    return {**{kind.__name__: kind for kind in known_configs().values()}, **found}

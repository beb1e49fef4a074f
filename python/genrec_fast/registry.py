"""The config types of a user's own that a file may name: one list for recipes, tokenizers and regularisers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from genrec_fast.errors import InvalidTypeError, InvalidValueError

__all__ = ["add_config", "known_configs"]

_known: dict[str, type] = {}


def add_config(op: str, kind: type, taken: Mapping[str, type] = MappingProxyType({})) -> None:
    """Puts ``kind`` on the list; ``taken``: names of types that are known without it.

    Raises:
        InvalidTypeError: not a frozen dataclass.
        InvalidValueError: the name is taken by another type.
    """
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InvalidTypeError(f"{op}: kind must be a frozen dataclass, got {kind!r}")
    name = kind.__name__.removesuffix("Config")
    if {**_known, **taken}.get(name, kind) is not kind or _known.get(name, kind) is not kind:
        raise InvalidValueError(f"{op}: kind must have a name of its own, got {kind.__name__!r} again")
    _known[name] = kind


def known_configs() -> dict[str, type]:
    """The list: every type by its name without the "Config" that it ends in."""
    return dict(_known)

"""One check of the settings of a network."""

from __future__ import annotations

import dataclasses
from typing import Any

from genrec_fast.errors import InvalidValueError

__all__ = ["check_sizes"]


def check_sizes(config: Any, *, zero: tuple[str, ...] = ()) -> None:
    """Every int of a config dataclass is at least 1 (0 for those in ``zero``), every dropout rate in [0, 1).

    Raises:
        InvalidValueError: the first field that is not.
    """
    for field in dataclasses.fields(config):
        value, least = getattr(config, field.name), 0 if field.name in zero else 1
        if type(value) is int and value < least:
            raise InvalidValueError(f"{type(config).__name__}: {field.name} must be at least {least}, got {value}")
        if field.name.endswith("dropout") and not 0 <= value < 1:
            raise InvalidValueError(f"{type(config).__name__}: {field.name} must be in [0, 1), got {value}")

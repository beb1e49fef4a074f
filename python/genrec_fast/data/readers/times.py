"""Numbers that say when, in whatever unit their file has, as seconds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.base.times import looks_like_seconds

TIME_UNITS: dict[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""How many of each are a second."""

# 1990 to 2100, in seconds since 1970: a number in there is a moment in seconds, one of a thousand times that a moment
# in milliseconds. The four ranges are far apart, so no moment of these years is taken for another.
_FROM, _TO = 631_152_000.0, 4_102_444_800.0
_MOST = 2.0**62


def check_time_unit(unit: str | None) -> None:
    """Raises unless ``unit`` is a known one, or ``None``."""
    if unit is not None and (not isinstance(unit, str) or unit not in TIME_UNITS):
        raise InvalidValueError(f"data.load: time_unit must be one of {', '.join(TIME_UNITS)}, got {unit!r:.40}")


def to_seconds(
    path: Path, times: np.ndarray, unit: str | None, complain: Callable[[int, str], DataError]
) -> np.ndarray:
    """Finite float64 ``[E]`` in ``unit`` to seconds.

    Args:
        path: of the file, for errors.
        times: as they stand in the file.
        unit: ``None``: told by the size of the numbers, as moments between 1990 and 2100 look different in every unit;
            numbers that are no such moments in any unit (a count of days, say) are left as they are.
        complain: makes the error about a row.

    Raises:
        DataError: moments in several units, or beyond 2^62 seconds.

    Warns:
        UserWarning: numbers too large for seconds that are moments in no unit.
    """
    if (strange := np.flatnonzero(np.abs(times) >= _MOST * TIME_UNITS[unit or "s"])).size:
        row = int(strange[0])
        raise complain(row, f"times must be below 2^62 seconds, got {times[row]:g}")
    if unit is None:
        found = [(name, (times >= _FROM * scale) & (times < _TO * scale)) for name, scale in TIME_UNITS.items()]
        seen = sorted(
            ((int(np.count_nonzero(inside)), name, inside) for name, inside in found), key=lambda one: -one[0]
        )
        (most, usual, _), (second, other, where) = seen[0], seen[1]
        if second:
            row = int(np.flatnonzero(where)[0])
            raise complain(
                row,
                f"times must be of one unit, but {times[row]:.0f} looks like {other} and {most} others like {usual}; "
                "time_unit (--time-unit) says which it is",
            )
        if not most and times.size and not looks_like_seconds(float(np.abs(times).max())):
            warnings.warn(
                f"data.load: times of {path} are taken as seconds, but {np.abs(times).max():.0f} seconds are more than "
                "3,000 years; time_unit (--time-unit) says what they are",
                stacklevel=2,
            )
        unit = usual if most else "s"
    return times / TIME_UNITS[unit]

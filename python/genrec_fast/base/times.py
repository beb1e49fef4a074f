"""Times of events: seconds, whole ones where networks read them."""

from __future__ import annotations

import warnings

from torch import Tensor


def looks_like_seconds(time: float) -> bool:
    """Whether a time may be in seconds: one of 1e11 would be the year 5138, and is 1973 in milliseconds."""
    return abs(time) < 1e11


def whole_times(times: Tensor) -> Tensor:
    """Times as networks read them: int64, whole seconds.

    Warns:
        UserWarning: numbers that are too large for seconds.
    """
    if times.numel() and not looks_like_seconds(largest := float(times.abs().max())):
        warnings.warn(
            f"timestamps must be in seconds, as models read them so, got {largest:.0f}; divide milliseconds by 1,000, "
            "or read the file with data.load(time_unit='ms')",
            stacklevel=3,
        )
    return times.double().floor().long()

"""How long-running work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with (what is done, steps done, steps in all, figures); done is at most all, which is 0 where nobody knows."""

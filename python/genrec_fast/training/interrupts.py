"""Ctrl-C that leaves a training in a state it can be resumed from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """Within ``with Interrupts() as stop``, the first SIGINT or SIGTERM sets ``stop.asked``; a second one raises.

    Within ``stop.at_once()`` (where nothing can be left half done) the first one raises, too. Outside the main thread
    signals cannot be caught, and nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _caught(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or self._at_once:
            raise KeyboardInterrupt
        self.asked = True

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block a signal interrupts at once."""
        if self.asked:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

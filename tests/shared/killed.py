"""Processes that are killed at a call, and what a run's log says whether it was killed or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from genrec_fast.training.log import read_log


def kill_at(at, *places):
    """From here on this process kills itself at the ``at``-th call of any of ``places``, (owner, name)."""
    calls = 0

    def counted(function):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    for owner, name in (*((Path, name) for name in ("replace", "unlink", "chmod", "touch")), *places):
        setattr(owner, name, counted(getattr(owner, name)))


def entries(out):
    """The log without what depends on the clock."""
    clock = ("elapsed_s", "items_per_s", "seconds")
    return [{k: v for k, v in entry.items() if k not in clock} for entry in read_log(out / "log.jsonl")]

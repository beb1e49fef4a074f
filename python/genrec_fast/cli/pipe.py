"""A reader that goes early (``genrec-fast recipes | head -1``) ends a command without a word."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPE_CLOSED = 141
"""what a shell says of a program that SIGPIPE ended: 128 + 13"""


class PipedConsole(Console):
    """A console of rich that leaves a closed pipe to the command, like ``print``."""

    def on_broken_pipe(self) -> None:
        """Raises on; rich itself would exit with 1."""
        raise  # noqa: PLE0704 (rich calls it while it handles the BrokenPipeError)


def leave_quietly() -> int:
    """Sends what is still to be written to nowhere, so that Python does not complain when it ends; the exit status."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return PIPE_CLOSED

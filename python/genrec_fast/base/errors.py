"""Every error and warning the library raises, each also an instance of the builtin a caller would expect.

Messages name the operation, the argument, the rule and the value:
``trie_step: nodes must be int32 [B, W], got int64 [8, 50]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = [
    "ClosedError",
    "CorruptFileError",
    "DataError",
    "DivergedError",
    "FolderInUseError",
    "GenrecError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingFolderError",
    "QueueFullError",
    "SlowPathWarning",
    "StillValidationWarning",
    "StorageError",
    "TimedOutError",
    "UnlockedFolderWarning",
    "UnsupportedError",
    "door",
    "install_hint",
    "refusal",
]

P = ParamSpec("P")
R = TypeVar("R")


class GenrecError(Exception):
    """Base of all errors raised by genrec_fast."""


class InvalidValueError(GenrecError, ValueError):
    """A value breaks the rule of an argument."""


class InvalidTypeError(GenrecError, TypeError):
    """An argument has the wrong type or dtype."""


class UnsupportedError(GenrecError, RuntimeError):
    """This machine, build or combination of parts lacks what was asked for."""


class DataError(GenrecError, ValueError):
    """A line of a data file is malformed; the message names file, line and reason."""


class DivergedError(GenrecError, ArithmeticError):
    """A training loss or gradient is no longer finite; the message names the step and a remedy."""


class CorruptFileError(GenrecError, ValueError):
    """A file written by this library was cut short, altered, or comes from an unknown version."""


class StorageError(GenrecError, OSError):
    """A file could not be written (disk full, read-only, gone); what was there before is still whole.

    ``errno`` is the operating system's number, or ``None``.
    """


class MissingFolderError(StorageError, FileNotFoundError):
    """A folder to write to is not there, or no longer."""


class FolderInUseError(GenrecError, RuntimeError):
    """Another process writes to this folder; the message says which, and on which machine."""


class QueueFullError(GenrecError, RuntimeError):
    """A batcher has as many questions waiting as it may; ask again later, or elsewhere."""


class TimedOutError(GenrecError, TimeoutError):
    """A question was not answered in the time it was given; the work on it was dropped."""


class ClosedError(GenrecError, RuntimeError):
    """A batcher was closed before it could answer."""


class SlowPathWarning(UserWarning):
    """A plain torch twin runs in place of a compiled kernel; the message names the remedy."""


class UnlockedFolderWarning(UserWarning):
    """The file system of a folder has no locks: nothing but a look before each write keeps two trainings apart."""


class StillValidationWarning(UserWarning):
    """The validation figures of a training do not move while its loss falls; the message names what may be wrong."""


def door(function: Callable[P, R]) -> Callable[P, R]:
    """The op, raising ``UnsupportedError`` where torch lacks memory, or a size or an address of an exotic tensor.

    Such are tensors under ``torch.func.vmap``, with names, or with a storage that was taken away: no op checks for each
    of them, because the question would cost every call as much as its answer.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (RuntimeError, MemoryError, OverflowError) as error:
            if isinstance(error, GenrecError):
                raise
            raise refusal(function.__name__, error) from error

    return guarded


def install_hint(extra: str) -> str:
    """How an optional extra is installed: by its name, and in a clone, where the name may not be known to any index."""
    return f"pip install 'genrec-fast[{extra}]' (in a clone: pip install '.[{extra}]')"


def refusal(op: str, error: BaseException) -> UnsupportedError:
    """Torch's error as the library's, with the first line of what torch said."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UnsupportedError(f"{op}: torch cannot do this: {reason:.200}")

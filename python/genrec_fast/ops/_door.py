"""What torch itself cannot do behind an op becomes the library's error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from genrec_fast.errors import GenrecError, UnsupportedError

__all__ = ["door", "refusal"]

P = ParamSpec("P")
R = TypeVar("R")


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


def refusal(op: str, error: BaseException) -> UnsupportedError:
    """Torch's error as the library's, with the first line of what torch said."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UnsupportedError(f"{op}: torch cannot do this: {reason:.200}")

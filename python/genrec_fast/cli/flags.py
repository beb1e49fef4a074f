"""Errors of the library in the words of the command line: the flag to give, not the argument of a function."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tyro

from genrec_fast.base.errors import GenrecError

__all__ = ["flags_of", "in_flags"]

# "operation: argument must ...", as every error begins; "each item of argument must ..." is one of them.
_ARGUMENT = re.compile(r"^((?:\w+: )?(?:each \w+ of )?)(\w+)(?= must )")


def flags_of(command: Callable[..., Any]) -> dict[str, str]:
    """The flags of a command by what the library calls them: its arguments, and the fields of its groups of options."""
    found: dict[str, str] = {}
    for name, kind in typing.get_type_hints(command, include_extras=True).items():
        group = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
        if dataclasses.is_dataclass(group):
            found |= {field.name: _flag(field.name) for field in dataclasses.fields(group)}
        elif name != "return" and tyro.conf.Positional not in getattr(kind, "__metadata__", ()):
            found[name] = _flag(name)
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextlib.contextmanager
def in_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Within the block, an error names the flag in place of an argument of ``flags``, where it names one."""
    try:
        yield
    except GenrecError as error:
        told = _ARGUMENT.match(str(error))
        if told is None or told[2] not in flags:
            raise
        raise type(error)(f"{told[1]}{flags[told[2]]}{str(error)[told.end() :]}") from error

"""Errors of the library in the words of the command line: the flag to give, not the argument of a function."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import tyro

from genrec_fast.base.errors import GenrecError, InvalidValueError
from genrec_fast.cli.values import refused_value

# "operation: argument must ...", as every error begins; "each item of argument must ..." is one of them.
_ARGUMENT = re.compile(r"^((?:([\w.]+): )?(?:each \w+ of )?)(\w+)(?= must )")


def flags_of(command: Callable[..., Any]) -> dict[str, str]:
    """The flags of a command by what the library calls them: its arguments, and the fields of its groups of options.

    A group with a prefix is the config of a part; its fields stand as ``TrainConfig: epochs``, as its errors begin.
    """
    found: dict[str, str] = {}
    for name, kind in typing.get_type_hints(command, include_extras=True).items():
        marks = getattr(kind, "__metadata__", ())
        group = kind.__origin__ if marks else kind
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            plain = tyro.conf.OmitArgPrefixes in marks
            if plain:
                found |= {field.name: _flag(field.name) for field in dataclasses.fields(group)}
            else:
                found |= _flags_of_config(group, name)
        elif name != "return" and tyro.conf.Positional not in marks:
            found[name] = _flag(name)
    return found


def _flags_of_config(config: type, prefix: str) -> dict[str, str]:
    """Those of its fields, and of the configs among them."""
    found: dict[str, str] = {}
    for name, kind in typing.get_type_hints(config).items():
        found[f"{config.__name__}: {name}"] = _flag(f"{prefix}.{name}")
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found |= _flags_of_config(kind, f"{prefix}.{name}")
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_once(op: str, arguments: Sequence[str], flags: Sequence[str]) -> None:
    """Raises where a flag that takes a list stands more than once: the parser would keep the last list alone.

    Raises:
        InvalidValueError: it does.
    """
    for flag in flags:
        times = sum(argument.partition("=")[0] == flag for argument in arguments)
        if times > 1:
            raise InvalidValueError(
                f"{op}: {flag} must be given once, with all of its list behind it, got it {times} times"
            )


@contextlib.contextmanager
def in_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Within the block, an error names the flag in place of an argument of ``flags``, where it names one."""
    try:
        yield
    except GenrecError as error:
        told = _ARGUMENT.match(str(error))
        flag = None if told is None else flags.get(f"{told[2]}: {told[3]}", flags.get(told[3]))
        if told is None or flag is None:
            raise
        raise type(error)(f"{told[1]}{flag}{str(error)[told.end() :]}") from error


def option(name: str, kind: Any, text: str, *default: Any) -> tuple[str, Any, Any]:
    """A field with a help text, for ``dataclasses.make_dataclass``."""
    annotated = Annotated[kind, tyro.conf.arg(help=text)]
    return (name, annotated, dataclasses.field(default=default[0]) if default else dataclasses.field())


def parsed(options: Any, prog: str, arguments: Sequence[str]) -> Any:
    """The dataclass ``options`` (or what another callable gives) as the command line fills it.

    Raises:
        GenrecError: of a config that refuses its values, or of a value of a wrong type: the parser would wrap it into
            words of its own.
        SystemExit: the parser has said what it does not understand, or shown the help.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options, prog=prog, args=list(arguments), use_underscores=False)
    except SystemExit as leaving:
        error: BaseException | None = leaving
        while error is not None and not isinstance(error, GenrecError):
            error = error.__cause__ or error.__context__
        error = error or refused_value(said.getvalue(), prog.split()[1], arguments)
        if error is not None:
            raise error from None
        sys.stderr.write(said.getvalue())
        raise

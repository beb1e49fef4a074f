"""Settings: what a config's fields must be, and configs of every kind to and from JSON.

A config is a frozen dataclass. Files name configs by their type; only registered types are read, so a file can name
nothing else.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar

from genrec_fast.base.checks import MOST, check_number, shown
from genrec_fast.base.errors import CorruptFileError, GenrecError, InvalidTypeError, InvalidValueError

Config = TypeVar("Config", bound=type)
_registered: dict[str, type] = {}  # every registered type by its name without the "Config" that it ends in


def is_part(value: object) -> bool:
    """Whether it is the config of a part: settings with ``build``, and no class."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "build")


def check_fields(
    config: Any,
    *,
    zero: tuple[str, ...] = (),
    above: tuple[str, ...] = (),
    within: dict[str, str] | None = None,
    free: tuple[str, ...] = (),
) -> None:
    """Every field is of the kind that its annotation names, and every number in it is in range; call it first.

    ::

        bool, str         of that type; a number is no bool, a bool no number
        Literal           one of its choices
        tuple[...]        a tuple (a list becomes one) of what it names
        a config          one of that type
        int               at least 1; at least 0 for names in ``zero``; at most 2^31 - 1
        float             finite and at least 0; above 0 for names in ``above``; an int will do
        X | None          None, or as X
        anything else     left to the config, as are the ranges of names in ``free``

    Args:
        config: a dataclass instance.
        zero: fields whose ints may be 0.
        above: fields whose floats must not be 0.
        within: field -> interval of its numbers, such as ``"[0, 1)"``. Names that end in "dropout" have that one.
        free: fields whose numbers have a rule of their own.

    Raises:
        InvalidTypeError: a field of another kind.
        InvalidValueError: a choice that there is not, too many or too few values, or a number out of range, NaN or
            infinite.
    """
    kind: Any = type(config)
    op, ranges, hints = kind.__name__, within or {}, _hints(kind)
    for field in dataclasses.fields(config):
        name, hint = field.name, hints[field.name]
        value = _as_tuple(hint, getattr(config, name))
        if value is not getattr(config, name):
            object.__setattr__(config, name, value)
        if not _fits(hint, value):
            error = InvalidValueError if _of_another_length(hint, value) else InvalidTypeError
            raise error(f"{op}: {name} must be {_words(hint)}, got {shown(value)}")
        choices = _choices(hint)
        if choices and value not in choices:
            said = " or ".join(filter(None, (", ".join(map(repr, choices[:-1])), repr(choices[-1]))))
            raise InvalidValueError(f"{op}: {name} must be {said}, got {shown(value)}")
        if name in free:
            continue
        interval = ranges.get(name, "[0, 1)" if name.endswith("dropout") else None)
        for stands_for, number in _numbers(hint, value):
            if interval is not None:
                _inside(op, name, number, interval)
            elif stands_for is float:
                check_number(op, name, number, above=0 if name in above else None, least=0)
            else:
                least = 0 if name in zero else 1
                if number < least:
                    raise InvalidValueError(f"{op}: {name} must be at least {least}, got {shown(number)}")
                if number > MOST:
                    raise InvalidValueError(f"{op}: {name} must be at most {MOST}, got {shown(number)}")


def register_config(kind: Config) -> Config:
    """Lets what uses the config ``kind`` (a frozen dataclass of your own) be saved and loaded; a decorator.

    Once is enough, whatever it is a part of: a recipe, a tokenizer, the regularisers of a tokenizer.

    Raises:
        InvalidTypeError: not a frozen dataclass.
        InvalidValueError: the name is taken by another type.
    """
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InvalidTypeError(f"register_config: kind must be a frozen dataclass, got {kind!r}")
    if _registered.setdefault(kind.__name__.removesuffix("Config"), kind) is not kind:
        raise InvalidValueError(f"register_config: kind must have a name of its own, got {kind.__name__!r} again")
    return kind


def register_configs(names: Mapping[str, Any]) -> None:
    """Registers every config among ``names``; a package of parts ends in ``register_configs(globals())``."""
    for name, value in names.items():
        if name.endswith("Config") and dataclasses.is_dataclass(value):
            register_config(value)  # type: ignore[type-var]


def to_json(config: Any, op: str = "to_json", *, full_names: bool = False, absent: bool = True) -> dict[str, Any]:
    """The fields of a config as JSON has them; a config inside it carries its type's name as ``kind``.

    Args:
        config: a dataclass instance; it need not be registered itself.
        op: for messages.
        full_names: kinds end in "Config", as in files of tokenizers.
        absent: also the fields that have the value which they have where a file lacks them.

    Raises:
        InvalidTypeError: a config inside it of a type that is not registered.
    """
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if absent or "absent" not in field.metadata or value != field.metadata["absent"]:
            found[field.name] = _encode(value, field.name, op, full_names, absent)
    return found


def _encode(value: Any, where: str, op: str, full_names: bool, absent: bool) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_encode(part, where, op, full_names, absent) for part in value]
    name = type(value).__name__
    short = name.removesuffix("Config")
    if _registered.get(short) is not type(value):
        raise InvalidTypeError(f"{op}: {where} must be of a registered config type, got {name}")
    return {"kind": name if full_names else short} | to_json(value, op, full_names=full_names, absent=absent)


def from_json(kind: type, values: Any, where: str, *, defaults: bool = False) -> Any:
    """The config of type ``kind`` that ``to_json`` took apart.

    Args:
        kind: a dataclass.
        values: what ``json.loads`` gave.
        where: names the file in errors.
        defaults: fields that ``values`` lacks have their defaults; else they are errors, unless their metadata says
            what they are where ``absent``.

    Raises:
        CorruptFileError: unknown keys or kinds, missing keys, or values of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise CorruptFileError(f"{where}: {kind.__name__} must be an object of JSON, got {shown(values)}")
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, _hints(kind)
    # A setting that came later: files from before mean what they meant, whatever the default is now.
    values = {name: field.metadata["absent"] for name, field in fields.items() if "absent" in field.metadata} | values
    optional = {name for name, field in fields.items() if defaults and not _is_required(field)}
    unknown, missing = sorted(values.keys() - fields.keys()), sorted(fields.keys() - values.keys() - optional)
    if unknown or missing:
        what = f"unknown key {unknown[0]!r}" if unknown else f"no key {missing[0]!r}"
        raise CorruptFileError(f"{where}: {kind.__name__} has {what}")
    given = {name: _decode(hints[name], value, f"{where}: {name}", defaults) for name, value in values.items()}
    try:
        return kind(**given)
    except GenrecError as error:
        raise CorruptFileError(f"{where}: {error}") from error


def _decode(hint: Any, value: Any, where: str, defaults: bool) -> Any:
    if isinstance(value, dict):
        kind = _registered.get(str(value.get("kind")).removesuffix("Config"))
        if kind is None:
            raise CorruptFileError(f"{where}: kind must be a registered config type, got {value.get('kind')!r}")
        return from_json(kind, {k: v for k, v in value.items() if k != "kind"}, where, defaults=defaults)
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return tuple(_decode(hint, part, where, defaults) for part in value)
    found, choices = _tuples(value), _choices(hint)
    if not _fits(hint, found) or (choices and found not in choices):
        raise CorruptFileError(f"{where} must be {hint}, got {shown(value)}")
    return found


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _inside(op: str, name: str, number: float, interval: str) -> None:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise InvalidValueError(f"{op}: {name} must be in {interval}, got {shown(number)}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _options(hint: Any) -> tuple[Any, ...]:
    """The kinds of a union; of anything else, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _choices(hint: Any) -> tuple[Any, ...]:
    """What a Literal allows, None where it is a choice, too; () where there is another kind beside it."""
    found: tuple[Any, ...] = ()
    options = _options(hint)
    for option in options:
        if option is type(None):
            found = (None, *found)
        elif typing.get_origin(option) is Literal:
            found += typing.get_args(option)
        else:
            return ()
    return found


def _parts(hint: Any, count: int) -> tuple[Any, ...]:
    """The kinds of a tuple's ``count`` elements."""
    args = typing.get_args(hint)
    return args[:1] * count if args[1:] == (...,) else args


def _as_tuple(hint: Any, value: Any) -> Any:
    """``value``, lists in the place of tuples made tuples."""
    for option in _options(hint):
        if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
            parts = _parts(option, len(value))
            if len(parts) == len(value):
                made = tuple(_as_tuple(part, element) for part, element in zip(parts, value, strict=True))
                same = isinstance(value, tuple) and all(new is old for new, old in zip(made, value, strict=True))
                return value if same else made
    return value


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a kind that this file knows; of others, anything is."""
    options = _options(hint)
    if len(options) > 1:
        return any(_fits(option, value) for option in options)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(type(value) is type(choice) for choice in typing.get_args(hint))
    if origin is tuple and all(map(_known, typing.get_args(hint))):
        parts = _parts(hint, len(value)) if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and len(parts) == len(value) and all(map(_fits, parts, value))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)) or dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    return True


def _known(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is tuple or len(_options(hint)) > 1:
        return all(map(_known, typing.get_args(hint)))
    return origin is Literal or hint in (int, float, bool, str, type(None), ...)


def _of_another_length(hint: Any, value: Any) -> bool:
    parts = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    return isinstance(value, tuple) and bool(parts) and ... not in parts and len(parts) != len(value)


def _words(hint: Any) -> str:
    options = _options(hint)
    if len(options) > 1:
        return " or ".join(_words(option) for option in options)
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        many = args[1:] == (...,)
        inner = _words(args[0]).removeprefix("an ").removeprefix("a ")
        return f"a tuple of {inner}" if many else f"a tuple of {len(args)} {inner}s"
    if typing.get_origin(hint) is Literal:
        return "a str"
    if dataclasses.is_dataclass(hint):
        name = str(getattr(hint, "__name__", hint))
        return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    names = {int: "an int", float: "a number", bool: "a bool", str: "a str", type(None): "None"}
    return names.get(hint, str(hint))


def _numbers(hint: Any, value: Any) -> list[tuple[type, Any]]:
    """Every number in a value, and whether it stands for an int or a float."""
    for option in _options(hint):
        if typing.get_origin(option) is tuple and isinstance(value, tuple) and _fits(option, value):
            parts = _parts(option, len(value))
            return [found for part, element in zip(parts, value, strict=True) for found in _numbers(part, element)]
        if option in (int, float) and _fits(option, value):
            return [(option, value)]
    return []

"""Recipes to and from JSON, through an explicit list of config types: a file can name nothing else."""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Any, Literal, TypeVar

from genrec_fast.errors import CorruptFileError, GenrecError, InvalidTypeError
from genrec_fast.recipe import BatchingConfig, Recipe, TrainConfig
from genrec_fast.registry import add_config, known_configs

__all__ = ["from_json", "register_config", "to_json"]

VERSION = 1
Config = TypeVar("Config", bound=type)


@cache
def _packaged() -> dict[str, type]:
    from genrec_fast import backbones, decoders, layouts, objectives, tokenizers

    kinds: dict[str, type] = {"Batching": BatchingConfig, "Train": TrainConfig}
    for family in (tokenizers, layouts, backbones, objectives, decoders):
        for name in family.__all__:
            kind = getattr(family, name)
            if isinstance(kind, type) and name.endswith("Config") and dataclasses.is_dataclass(kind):
                kinds[name.removesuffix("Config")] = kind
    return kinds


def register_config(kind: Config) -> Config:
    """Lets what uses the config ``kind`` (a frozen dataclass of your own) be saved and loaded; a decorator.

    Once is enough, whatever it is a part of: a recipe, a tokenizer, the regularisers of a tokenizer.

    Raises:
        InvalidTypeError: not a frozen dataclass.
        InvalidValueError: the name is taken by another type.
    """
    add_config("register_config", kind, _packaged())
    return kind


def _configs() -> dict[str, type]:
    return {**known_configs(), **_packaged()}


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON of a recipe.

    Raises:
        InvalidTypeError: a config type that ``register_config`` does not know.
    """
    fields = {f.name: _encode(getattr(recipe, f.name), f.name) for f in dataclasses.fields(recipe)}
    return {"version": VERSION, **fields}


def _encode(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_encode(part, where) for part in value]
    name = type(value).__name__.removesuffix("Config")
    if not dataclasses.is_dataclass(value) or _configs().get(name) is not type(value):
        raise InvalidTypeError(f"to_json: {where} must be of a registered config type, got {type(value).__name__}")
    return {"kind": name} | {f.name: _encode(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}


def from_json(text: Any, where: str = "recipe.json") -> Recipe:
    """The recipe that ``to_json`` wrote; ``where`` names the file in errors.

    Raises:
        CorruptFileError: unknown version, keys, kinds, or values of the wrong type or out of range.
    """
    if not isinstance(text, dict) or text.get("version") != VERSION or type(text["version"]) is not int:
        got = text.get("version") if isinstance(text, dict) else type(text).__name__
        raise CorruptFileError(f"{where}: version must be {VERSION}, got {got!r}")
    recipe = _decode_fields(Recipe, {k: v for k, v in text.items() if k != "version"}, where)
    assert isinstance(recipe, Recipe)
    return recipe


def _decode_fields(kind: type, values: dict[str, Any], where: str) -> object:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    # A setting that came later: files from before mean what they meant, whatever the default is now.
    values = {f.name: f.metadata["absent"] for f in dataclasses.fields(kind) if "absent" in f.metadata} | values
    unknown, missing = sorted(values.keys() - known), sorted(known - values.keys())
    if unknown or missing:
        what = f"unknown key {unknown[0]!r}" if unknown else f"no key {missing[0]!r}"
        raise CorruptFileError(f"{where}: {kind.__name__} has {what}")
    decoded = {name: _decode(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**decoded)
    except GenrecError as error:
        raise CorruptFileError(f"{where}: {error}") from error


def _decode(hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, dict):
        kind = _configs().get(str(value.get("kind")))
        if kind is None:
            raise CorruptFileError(f"{where}: kind must be a registered config type, got {value.get('kind')!r}")
        return _decode_fields(kind, {k: v for k, v in value.items() if k != "kind"}, where)
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return tuple(_decode(hint, part, where) for part in value)
    if not _fits(hint, value):
        raise CorruptFileError(f"{where} must be {hint}, got {value!r}")
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _fits(hint: Any, value: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(arg, value) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, list):
            return False
        inner = args[:1] * len(value) if args[1:] == (...,) else args
        return len(inner) == len(value) and all(_fits(a, v) for a, v in zip(inner, value, strict=True))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(hint, type) and type(value) is hint

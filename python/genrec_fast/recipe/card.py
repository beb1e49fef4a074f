"""Recipes to and from JSON."""

from __future__ import annotations

from typing import Any

# Each package registers its configs: what a recipe.json may name, and the names that are taken.
from genrec_fast import backbones, decoders, layouts, objectives, tokenizers  # noqa: F401
from genrec_fast.base.config import from_json as read
from genrec_fast.base.config import register_config
from genrec_fast.base.config import to_json as written
from genrec_fast.base.errors import CorruptFileError
from genrec_fast.recipe.recipe import Recipe

__all__ = ["from_json", "register_config", "to_json"]

VERSION = 1


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON of a recipe.

    Raises:
        InvalidTypeError: a config type that ``register_config`` does not know.
    """
    return {"version": VERSION, **written(recipe)}


def from_json(text: Any, where: str = "recipe.json") -> Recipe:
    """The recipe that ``to_json`` wrote; ``where`` names the file in errors.

    Raises:
        CorruptFileError: unknown version, keys, kinds, or values of the wrong type or out of range.
    """
    if not isinstance(text, dict) or text.get("version") != VERSION or type(text["version"]) is not int:
        got = text.get("version") if isinstance(text, dict) else type(text).__name__
        raise CorruptFileError(f"{where}: version must be {VERSION}, got {got!r}")
    recipe: Recipe = read(Recipe, {k: v for k, v in text.items() if k != "version"}, where)
    return recipe

"""The page docs/recipes.md, from the recipes themselves: ``genrec-fast recipes --markdown > docs/recipes.md``."""

from __future__ import annotations

import dataclasses
from typing import Any

from genrec_fast.recipes import get, names

__all__ = ["markdown"]

_PARTS = ("tokenizer", "layout", "backbone", "objective", "decoder", "batching", "train")


def _part(value: Any) -> str:
    if value is None:
        return "none"
    return f"**{type(value).__name__.removesuffix('Config')}** {_settings(value)}".rstrip()


def _settings(value: Any) -> str:
    return ", ".join(f"{f.name} {_value(getattr(value, f.name))}" for f in dataclasses.fields(value))


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__.removesuffix('Config')}({_settings(value)})"
    return " × ".join(map(_value, value)) or "default" if isinstance(value, tuple) else str(value)


def markdown() -> str:
    """All recipes with every setting."""
    lines = ["# Recipes", "", "Written by `genrec-fast recipes --markdown > docs/recipes.md`; do not edit.", ""]
    for name in names():
        recipe = get(name)
        lines += [f"## {name}", "", f"Source: {recipe.source}.", "", f"Measured: {recipe.measured}.", ""]
        if recipe.deviations:
            lines += ["Not as published:", "", *(f"- {text}" for text in recipe.deviations), ""]
        lines += ["| part | settings |", "|---|---|"]
        lines += [f"| {part} | {_part(getattr(recipe, part))} |" for part in _PARTS]
        lines.append("")
    return "\n".join(lines)

"""The page docs/recipes.md, from the recipes themselves: ``genrec-fast recipes --markdown > docs/recipes.md``."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from genrec_fast.recipes import get, names

# Published systems that were looked at for a recipe, and what keeps them from one.
_LEFT_OUT = {
    "BBQRec, GMC, MMQ-v2, UNGER": "no public code was found and no more than abstracts read: their forms "
    "would be invented",
    "LMIndexer": "semantic IDs that a language model learns from item texts, level by level",
    "MTGRec": "several semantic IDs an item, of checkpoints of one tokenizer, drawn by whose gradients agree with "
    "those of the validation: a catalog has one",
    "UTGRec": "codes are states of a multimodal language model that reads texts and pictures, and that is trained "
    "to write them again: a catalog has one vector an item, and without the model little more than an RQ-VAE is left",
}
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


def _linked(measured: str) -> str:
    """The pages that a figure stands on as links, and the command behind one as code."""
    linked = re.sub(r"docs/([\w-]+\.md(?:#[\w-]+)?)", r"[\1](\1)", measured)
    return re.sub(r": (python bench/[^)]*)\)$", r": `\1`)", linked)


def markdown() -> str:
    """All recipes with every setting."""
    lines = ["# Recipes", "", "Written by `genrec-fast recipes --markdown > docs/recipes.md`; do not edit.", ""]
    for name in names():
        recipe = get(name)
        lines += [f"## {name}", "", f"Source: {recipe.source}.", "", f"Measured: {_linked(recipe.measured)}.", ""]
        if recipe.deviations:
            lines += ["Not as published:", "", *(f"- {text}" for text in recipe.deviations), ""]
        lines += ["| part | settings |", "|---|---|"]
        lines += [f"| {part} | {_part(getattr(recipe, part))} |" for part in _PARTS]
        lines.append("")
    lines += ["## Systems without a recipe", "", *(f"- {name}: {why}." for name, why in _LEFT_OUT.items()), ""]
    return "\n".join(lines)

"""The page docs/recipes.md, from the recipes themselves: ``genrec-fast recipes --markdown > docs/recipes.md``."""

from __future__ import annotations

import dataclasses
from typing import Any

from genrec_fast.recipes import get, names

__all__ = ["markdown"]

# Published systems that were looked at for a recipe, and what keeps them from one.
_LEFT_OUT = {
    "BBQRec, GMC, MMQ-v2, STORE, UNGER": "no public code was found and no more than abstracts read: their forms "
    "would be invented",
    "CCFRec": "attention from an item's codes to its attributes' vectors, and masked codes: a catalog has one vector "
    "an item; its public code was not read",
    "DFGR": "a real and a fake flow in every layer: no public code, and its mask is known in outline alone",
    "EARN": "keys and values of register tokens alone are kept behind a layer: no public code was read, and its form "
    "would be invented",
    "LMIndexer": "semantic IDs that a language model learns from item texts, level by level",
    "MBGen": "the behaviour is written in front of the codes: no layout puts actions among codes",
    "MTGRec": "several semantic IDs an item, of checkpoints of one tokenizer: a catalog has one",
    "RecBase": "training on many data sets at once; no more than its abstract was read",
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
    lines += ["## Systems without a recipe", "", *(f"- {name}: {why}." for name, why in _LEFT_OUT.items()), ""]
    return "\n".join(lines)

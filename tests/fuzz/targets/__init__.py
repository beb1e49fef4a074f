"""The generators, by what they call."""

from __future__ import annotations

from . import (
    attention,
    codes,
    configs,
    contents,
    drafts,
    jagged,
    language,
    measures,
    products,
    quantizers,
    searches,
    transformers,
    tries,
)

__all__ = [
    "attention",
    "codes",
    "configs",
    "contents",
    "drafts",
    "jagged",
    "language",
    "measures",
    "products",
    "quantizers",
    "searches",
    "transformers",
    "tries",
]

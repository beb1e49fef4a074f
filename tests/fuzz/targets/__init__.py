"""The generators, by what they call."""

from __future__ import annotations

from . import (
    attention,
    codes,
    configs,
    contents,
    decoders,
    drafts,
    jagged,
    judges,
    language,
    measures,
    products,
    quantizers,
    searches,
    transformers,
    tries,
    unordered,
)

__all__ = [
    "attention",
    "codes",
    "configs",
    "contents",
    "decoders",
    "drafts",
    "jagged",
    "judges",
    "language",
    "measures",
    "products",
    "quantizers",
    "searches",
    "transformers",
    "tries",
    "unordered",
]

"""The generators, by what they call."""

from __future__ import annotations

from . import attention, jagged, products, quantizers, transformers, tries

__all__ = ["attention", "jagged", "products", "quantizers", "transformers", "tries"]

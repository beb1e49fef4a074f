"""Item ids as semantic IDs of one level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer


@dataclass(frozen=True, kw_only=True)
class AtomicConfig:
    """Every item is its own code.

    A trie holds codebooks of up to 65,536 codes; larger catalogs are searched with embeddings (``decoders.retrieve``).
    """

    def build(self, catalog: Catalog | None = None) -> Atomic:
        return Atomic(self, None if catalog is None else catalog.feature_dim)


class Atomic(Tokenizer):
    """See ``AtomicConfig``; reads no features."""

    kind: ClassVar[str] = "atomic"
    config_type: ClassVar[type] = AtomicConfig

    def _fit(self, fit: Fit) -> None:
        self._item_codes = torch.arange(fit.num_items, dtype=torch.int32).unsqueeze(1)
        self._codebook_sizes = (fit.num_items,)
        fit.progress("atomic", 1, 1, {})

"""Item ids as semantic IDs of one level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.catalog import Catalog
from genrec_fast.tokenizers.base import Progress, Tokenizer
from genrec_fast.types import Jagged

__all__ = ["Atomic", "AtomicConfig"]


@dataclass(frozen=True, kw_only=True)
class AtomicConfig:
    """Every item is its own code.

    A trie holds codebooks of up to 65,536 codes; larger catalogs are searched with embeddings (``decoders.retrieve``).
    """

    def build(self, catalog: Catalog) -> Atomic:
        return Atomic(self, catalog.feature_dim)


class Atomic(Tokenizer):
    """See ``AtomicConfig``; reads no features."""

    kind: ClassVar[str] = "atomic"
    config_type: ClassVar[type] = AtomicConfig

    def fit(
        self,
        features: Tensor | None = None,
        *,
        num_items: int | None = None,
        seed: int = 0,
        histories: Jagged | None = None,
        categories: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        count = self._count(features, num_items)
        self._item_codes = torch.arange(count, dtype=torch.int32).unsqueeze(1)
        self._codebook_sizes = (count,)
        if progress is not None:
            progress("atomic", 1, 1, {})

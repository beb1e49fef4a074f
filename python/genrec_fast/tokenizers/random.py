"""Codes drawn at random: the control that shows what the meaning in semantic IDs is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genrec_fast.catalog import Catalog
from genrec_fast.checks import check_fields
from genrec_fast.tokenizers.base import Progress, Tokenizer
from genrec_fast.tokenizers.collisions import resolve
from genrec_fast.tokenizers.dedup import Dedup
from genrec_fast.tokenizers.groups import check_codebook_sizes
from genrec_fast.types import Jagged

__all__ = ["Random", "RandomConfig"]


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """Independent, uniform codes."""

    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """codes per level, without the dedup level"""
    dedup: Dedup = "rank"
    """how items of equal codes are told apart, see ``add_dedup_level``"""

    def __post_init__(self) -> None:
        check_fields(self, free=("codebook_sizes",))
        check_codebook_sizes("RandomConfig", self.codebook_sizes)

    def build(self, catalog: Catalog) -> Random:
        return Random(self, catalog.feature_dim)


class Random(Tokenizer):
    """See ``RandomConfig``; reads no features."""

    kind: ClassVar[str] = "random"
    config_type: ClassVar[type] = RandomConfig

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
        generator = self._generator(seed)
        sizes = self.config.codebook_sizes
        codes = torch.stack([torch.randint(size, (count,), generator=generator) for size in sizes], 1)
        self._item_codes, self._codebook_sizes, self.resolution = resolve(codes, sizes, self.config.dedup)
        if progress is not None:
            progress("random", 1, 1, {})

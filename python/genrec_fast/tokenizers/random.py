"""Codes drawn at random: the control that shows what meaningful semantic IDs are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from genrec_fast.base.config import check_fields
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.base import Fit, Tokenizer
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import Dedup


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

    def build(self, catalog: Catalog | None = None) -> Random:
        return Random(self, None if catalog is None else catalog.feature_dim)


class Random(Tokenizer):
    """See ``RandomConfig``; reads no features."""

    kind: ClassVar[str] = "random"
    config_type: ClassVar[type] = RandomConfig

    def _fit(self, fit: Fit) -> None:
        generator, sizes = fit.generator(), self.config.codebook_sizes
        columns = [torch.randint(size, (fit.num_items,), generator=generator) for size in sizes]
        self._keep(torch.stack(columns, 1), sizes)
        fit.progress("random", 1, 1, {})

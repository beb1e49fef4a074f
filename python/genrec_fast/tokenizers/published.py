"""Semantic IDs that came with a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import DataError, InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.data.readers.semantic_ids import codes_by_number, published_codes
from genrec_fast.tokenizers.base import Fit, Tokenizer
from genrec_fast.tokenizers.codes import check_codebook_sizes
from genrec_fast.tokenizers.collisions.dedup import Dedup


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """IDs from a json file as LC-Rec and LETTER publish them: ``{"0": ["<a_183>", "<b_70>", ...], ...}``."""

    path: str | None = None
    """the file; None: those of the catalog, which ``data.load`` has found beside the data"""
    first: int = 0
    """the number under which the file lists item 0"""
    codebook_sizes: tuple[int, ...] | None = None
    """codes per level; None: the largest code of each level plus one"""
    dedup: Dedup = "none"
    """how items of equal codes are told apart, see ``add_dedup_level``; published IDs are taken as they are"""

    def __post_init__(self) -> None:
        check_fields(self, zero=("first",), free=("path", "codebook_sizes"))
        if self.codebook_sizes is not None:
            check_codebook_sizes("PublishedConfig", self.codebook_sizes)

    def build(self, catalog: Catalog | None = None) -> Published:
        tokenizer = Published(self, None if catalog is None else catalog.feature_dim)
        if catalog is not None:
            tokenizer.found, tokenizer.names = catalog.item_codes, catalog.item_ids
        return tokenizer


class Published(Tokenizer):
    """See ``PublishedConfig``; reads no features. ``fit`` reads the file.

    Raises:
        DataError: the file is malformed (naming file, item and reason) or is about another number of items.
    """

    kind: ClassVar[str] = "published"
    config_type: ClassVar[type] = PublishedConfig
    found: Tensor | None = None
    """int ``[N, L]``, of the catalog"""
    names: Sequence[str] | None = None
    """of the catalog's items"""

    def _count(self, features: Tensor | None, num_items: int | None) -> int:
        """N: the file's, where nothing else says it."""
        if features is None and num_items is None:
            return len(self._codes())
        return super()._count(features, num_items)

    def _fit(self, fit: Fit) -> None:
        config, path = self.config, self.config.path or "semantic IDs of the data"
        codes = self._codes()
        if len(codes) != fit.num_items:
            raise DataError(f"{path}: must hold {fit.num_items} items, one for each of the catalog, got {len(codes)}")
        sizes: tuple[int, ...] = config.codebook_sizes or tuple((codes.amax(0) + 1).tolist())
        if len(sizes) != codes.shape[1]:
            raise DataError(f"{path}: must hold IDs of {len(sizes)} levels, one for each size, got {codes.shape[1]}")
        for level, size in enumerate(sizes):
            wrong = (codes[:, level] >= size).nonzero()
            if wrong.numel():
                item = int(wrong[0])
                raise DataError(
                    f"{path}: item '{item + config.first}': code of level {level} must be below {size}, "
                    f"got {int(codes[item, level])}"
                )
        self._keep(codes, sizes)
        fit.progress("published", 1, 1, {})

    def _codes(self) -> Tensor:
        if self.config.path is None:
            if self.found is None:
                raise InvalidValueError(
                    "PublishedConfig: path must be given where the data has no semantic IDs, got None"
                )
            return self.found
        path, first = Path(self.config.path), self.config.first
        return codes_by_number(path, first) if self.names is None or first else published_codes(path, self.names)

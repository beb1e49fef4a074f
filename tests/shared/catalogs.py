"""Catalogs for tests: as much as a part reads."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from genrec_fast.catalog.catalog import Catalog


def wide(width):
    """Items with features of a width; ``None``: of which nothing is known."""
    return Catalog(num_items=1, features=None if width is None else torch.zeros(1, width))


def sized(codebook_sizes, num_items, width=None):
    """What a backbone reads of a catalog."""
    features = None if width is None else torch.zeros(num_items, width)
    return Catalog(num_items=num_items, codebook_sizes=codebook_sizes, features=features)


def coded(item_codes, codebook_sizes, features=None, **known):
    """What a layout reads of a catalog."""
    return Catalog(item_codes=item_codes, codebook_sizes=codebook_sizes, features=features, **known)


def system_of(backbone):
    """What an objective reads of a system."""
    return SimpleNamespace(backbone=backbone)

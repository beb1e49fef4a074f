"""What was done about items of equal codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What a way of telling items of equal codes apart did; ``str`` says it in a sentence."""

    method: str
    num_items: int
    groups: int
    """groups of two or more items of equal codes, before"""
    largest_group: int
    """items of the largest group before; 1 where nothing collided"""
    items_touched: int
    """items in those groups (a dedup level), or items whose codes changed (reassignment)"""
    collision_rate_before: float
    collision_rate_after: float
    """over whole semantic IDs, a dedup level included"""
    level_added: int = 0
    """codes of the dedup level; 0: none was added"""
    moved_by_level: tuple[int, ...] = ()
    """reassignment: items whose code of level l is the first that changed, per level; all but the last count items
    that found their prefix full"""
    left_over: int = 0
    """items that reassignment found no place for"""
    distortion_before: float | None = None
    """mean squared error per element of what the codes stand for, before; reassignment only"""
    distortion_after: float | None = None

    @property
    def distortion_added(self) -> float | None:
        """By how much the mean squared error grew."""
        if self.distortion_before is None or self.distortion_after is None:
            return None
        return self.distortion_after - self.distortion_before

    def __str__(self) -> str:
        rates = f"collision rate {self.collision_rate_before:.4f} -> {self.collision_rate_after:.4f}"
        text = f"{self.method}: {self.groups:,} groups of equal codes, the largest of {self.largest_group:,}; {rates}"
        text += f"; {self.items_touched:,} items touched"
        if self.level_added:
            text += f"; a level of {self.level_added:,} codes added"
        if sum(self.moved_by_level[:-1]):
            text += f"; {sum(self.moved_by_level[:-1]):,} items left a full prefix"
        if self.left_over:
            text += f"; {self.left_over:,} items found no free code"
        if self.distortion_added is not None:
            text += f"; mean squared error {self.distortion_before:.5g} -> {self.distortion_after:.5g}"
        return text


class Resolved(NamedTuple):
    """Semantic IDs and how they came about."""

    item_codes: Tensor
    """int32 ``[N, L]`` or, with a dedup level, ``[N, L + 1]``"""
    codebook_sizes: tuple[int, ...]
    resolution: Resolution

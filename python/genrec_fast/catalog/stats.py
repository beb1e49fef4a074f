"""What ``Trie.stats()`` returns, and sizes in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def levels_of(sizes: Sequence[int]) -> str:
    """Sizes of codebooks in a few words."""
    if len(set(sizes)) == 1:
        return f"{len(sizes)} levels of {sizes[0]:,} codes"
    shown = ", ".join(f"{size:,}" for size in sizes[:8])
    return f"{len(sizes)} levels of {shown}{', ...' if len(sizes) > 8 else ''} codes"


@dataclass(frozen=True, kw_only=True)
class TrieStats:
    """Counts and sizes of a trie; ``print`` shows them as a table.

    Args:
        items: N.
        rows: unique semantic IDs.
        nodes: per level 0 .. L - 1.
        mean_fan_out: edges per node, per level.
        max_fan_out: edges of the widest node, per level.
        search_bytes: what a search reads (everything but the map from rows to items).
        total_bytes: with that map.
        collision_rate: share of items beyond the first of their semantic ID, ``1 - rows / items``.
    """

    items: int
    rows: int
    nodes: tuple[int, ...]
    mean_fan_out: tuple[float, ...]
    max_fan_out: tuple[int, ...]
    search_bytes: int
    total_bytes: int
    collision_rate: float

    def __str__(self) -> str:
        def size(num_bytes: int) -> str:
            return f"{num_bytes:,} bytes, {num_bytes / self.items:.2f} per item"

        totals = {
            "items": f"{self.items:,}",
            "rows": f"{self.rows:,}",
            "collision rate": f"{self.collision_rate:.4%}",
            "search": size(self.search_bytes),
            "in all": size(self.total_bytes),
        }
        width = max(map(len, totals))
        lines = [f"{name:<{width}}  {value}" for name, value in totals.items()]
        table = [("level", "nodes", "mean fan-out", "max fan-out")]
        for level, (nodes, mean, largest) in enumerate(
            zip(self.nodes, self.mean_fan_out, self.max_fan_out, strict=True)
        ):
            table.append((str(level), f"{nodes:,}", f"{mean:,.2f}", f"{largest:,}"))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
        return "\n".join([*lines, "", *rows])

"""A filter of two tries that are searched as one: a filter of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError, door
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.joint import Keeps
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter


class JointFilter(TrieFilter):
    """A filter of a ``ChangedTrie`` that items were appended to: one for each of its tries."""

    def __init__(self, *fields: Any) -> None:
        *plain, keeps, trie = fields
        super().__init__(*plain)
        object.__setattr__(self, "keeps_of_both", keeps)
        object.__setattr__(self, "_trie", trie)

    keeps_of_both: Keeps
    _trie: Any

    def require_trie(self, trie: CatalogTrie) -> None:
        """Raises unless it is the trie it was made of."""
        if trie is not self._trie:
            raise InvalidValueError("trie_step: allowed must be a filter of this trie, got one of another trie")

    @property
    def num_users(self) -> int | None:
        """See ``TrieFilter``."""
        if self.exclude is not None:
            return len(self.exclude)
        return None if self.allowed is None or len(self.allowed) == 1 else len(self.allowed)

    @door
    def keeps(self, users: Tensor, items: Tensor) -> Tensor:
        """See ``TrieFilter``."""
        kept, first = torch.ones_like(items, dtype=torch.bool), self._trie.base.num_items
        for keep, here, begin in zip(self.keeps_of_both, (items < first, items >= first), (0, first), strict=True):
            if keep is not None:
                kept[here] = keep.keeps(users[here], items[here] - begin)
        return kept


def require_items(num_items: int, exclude: Jagged) -> None:
    """Raises ``InvalidValueError`` unless the lists hold items."""
    outside = (exclude.values < 0) | (exclude.values >= num_items)
    if bool(outside.any()):
        where = int(outside.nonzero()[0])
        raise InvalidValueError(
            f"trie_filter: exclude must hold item ids in [0, {num_items}), "
            f"got {int(exclude.values[where])} for user {int(exclude.row_index()[where])}"
        )


def counts_of(rows: Jagged, here: Tensor) -> Tensor:
    """int64 ``[B]``: how many values of each row are meant."""
    ends = torch.nn.functional.pad(here.cumsum(0), (1, 0))
    return ends[rows.offsets[1:]] - ends[rows.offsets[:-1]]


def within(rows: Jagged, begin: int, end: int) -> Jagged:
    """The ids in ``[begin, end)`` of each row, counted from ``begin``."""
    here = (rows.values >= begin) & (rows.values < end)
    return Jagged.from_lengths(rows.values[here] - begin, counts_of(rows, here))

"""Keys and values of many users in pages of one size, from one pool: a history grows without being copied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import offsets_of
from genrec_fast.nn.packed import row_positions


class Pages:
    """Which of ``num_pages`` pages, of ``page_size`` tokens each, are taken.

    Args:
        num_pages: at least 1.
        page_size: tokens on a page, at least 1.
    """

    def __init__(self, *, num_pages: int, page_size: int) -> None:
        for name, value in (("num_pages", num_pages), ("page_size", page_size)):
            if value < 1:
                raise InvalidValueError(f"PagePool: {name} must be at least 1, got {value}")
        self.num_pages, self.page_size = num_pages, page_size
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Free pages."""
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        """How many pages so many tokens need."""
        return -(-tokens // self.page_size)

    def take(self, count: int) -> list[int]:
        """So many free pages.

        Raises:
            InvalidValueError: there are fewer.
        """
        if count > len(self._free):
            raise InvalidValueError(f"PagePool: count must be at most {len(self._free)}, the free pages, got {count}")
        return [self._free.pop() for _ in range(count)]

    def give_back(self, pages: Sequence[int]) -> None:
        """Pages that ``take`` gave; what is on them is lost.

        Raises:
            InvalidValueError: a page that is free, or none of these.
        """
        free = set(self._free)
        for page in pages:
            if page in free or not 0 <= page < self.num_pages:
                raise InvalidValueError(f"PagePool: pages must be taken ones of {self.num_pages}, got {page}")
            free.add(page)
        self._free.extend(pages)


class PagePool(Pages):
    """Room for keys, values and times of ``num_pages * page_size`` tokens, given out by the page.

    Args:
        shapes: per layer: heads, channels of a key and of a value.
        num_pages: at least 1.
        page_size: tokens on a page, at least 1.
        dtype: of keys and values.
        device: where they are.

    Notes:
        All memory is taken at once: ``num_pages page_size sum(H (Dqk + Dv))`` values and a time per token.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_pages=num_pages, page_size=page_size)
        room = num_pages * page_size
        self.keys = [torch.zeros(room, heads, width, dtype=dtype, device=device) for heads, width, _ in shapes]
        self.values = [torch.zeros(room, heads, width, dtype=dtype, device=device) for heads, _, width in shapes]
        self.times = torch.zeros(room, dtype=torch.int64, device=device)

    def places(self, pages: Sequence[Sequence[int]], first: Tensor, lengths: Tensor) -> Tensor:
        """int64 ``[E]``: where tokens ``first[b], ..., first[b] + lengths[b] - 1`` of each row stand in the pool."""
        device = self.times.device
        flat = torch.tensor([page for row in pages for page in row], dtype=torch.int64, device=device)
        begins = offsets_of(torch.tensor([len(row) for row in pages], dtype=torch.int64, device=device))[:-1]
        at = row_positions(offsets_of(lengths), first)
        page = flat[torch.repeat_interleave(begins, lengths) + at // self.page_size]
        return page * self.page_size + at % self.page_size


class PagedPast:
    """What a pool knows of some rows, and what one pass through the layers adds to it (a ``nn.packed.Past``).

    Args:
        pool: holds the known tokens.
        pages: of each row.
        lengths: int64 ``[B]``: known tokens per row.
        new_lengths: int64 ``[B]``: tokens per row that this pass reads.

    Notes:
        A pass writes nothing to the pool before ``keep``: one that fails leaves it as it was. Keys and values of a
        row's past are gathered once a layer.
    """

    def __init__(self, pool: PagePool, pages: Sequence[Sequence[int]], lengths: Tensor, new_lengths: Tensor) -> None:
        self.pool, self.lengths = pool, lengths
        self._pages = pages
        offsets = offsets_of(lengths + new_lengths)
        old = row_positions(offsets_of(lengths), offsets[:-1])
        # One gather of whole rows, the new ones from anywhere: twice as fast as a gather and a scatter of the old ones.
        self._source = torch.zeros(int(offsets[-1]), dtype=torch.int64, device=lengths.device)
        self._source[old] = pool.places(pages, torch.zeros_like(lengths), lengths)
        self._new = row_positions(offsets_of(new_lengths), offsets[:-1] + lengths)
        self._new_lengths = new_lengths
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}
        self._times: Tensor | None = None

    def _joined(self, known: Tensor, new: Tensor) -> Tensor:
        out = known.index_select(0, self._source).to(new.dtype)
        return out.index_copy_(0, self._new, new)

    def join_times(self, times: Tensor) -> Tensor:
        """int64: when each token of each row was, known and new, end to end."""
        self._times = times
        return self._joined(self.pool.times, times)

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of each row, known and new, end to end."""
        self._seen[layer] = keys, values
        return self._joined(self.pool.keys[layer], keys), self._joined(self.pool.values[layer], values)

    def keep(self, pages: Sequence[Sequence[int]], counts: Tensor) -> None:
        """Writes the first ``counts [B]`` new tokens of each row to its ``pages``, which begin with those it had."""
        place = row_positions(offsets_of(self._new_lengths))
        kept = place < torch.repeat_interleave(counts, self._new_lengths)
        where = self.pool.places(pages, self.lengths, counts)
        for layer, (keys, values) in self._seen.items():
            self.pool.keys[layer][where] = keys[kept].to(self.pool.keys[layer].dtype)
            self.pool.values[layer][where] = values[kept].to(self.pool.values[layer].dtype)
        if self._times is not None:
            self.pool.times[where] = self._times[kept]

"""Filters of a search: which items may appear, prepared once for all levels (contract: ``trie_filter``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec_fast.base.checks import require_room, require_tensors, shown, whole_number
from genrec_fast.base.errors import GenrecError, InvalidTypeError, InvalidValueError, door
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import TrieTensors
from genrec_fast.ops._cuda_trie_filter import allow_on_card, exclude_on_card
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import check_offsets, require_offsets
from genrec_fast.ops._trie_arguments import require_levels
from genrec_fast.ops.reference import trie_filter as reference
from genrec_fast.ops.trie_offsets import DELTA_BYTES

_WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class CatalogTrie(TrieTensors, Protocol):
    """A trie that also knows the items of its rows."""

    @property
    def num_items(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def leaf_bases(self) -> Tensor: ...
    @property
    def leaf_deltas(self) -> Tensor: ...
    @property
    def leaf_items(self) -> Tensor: ...
    @property
    def item_rows(self) -> Tensor: ...
    def num_nodes(self, level: int) -> int: ...
    def items(self, rows: Tensor) -> Jagged: ...


@dataclass(frozen=True)
class TrieFilter:
    """What ``trie_step`` reads of a filter; made by ``trie_filter``, of one trie, for any number of its levels.

    Args:
        bits: int64 ``[U, R // 64 + 1]``, U = 1 or B: bit r mod 64 of word r // 64 says whether row r is allowed;
            ``None`` where all are.
        ranks: int32, same shape: the number of allowed rows before each word.
        excluded: int32 ``[E]``: rows that lose their last allowed item to the user's list, ascending per user;
            the tail behind ``excluded_offsets[B]`` is 0. ``None`` without lists.
        excluded_offsets: int64 ``[B + 1]`` into ``excluded``.
        allowed: bool ``[U, N]`` over items, as given.
        exclude: item ids per user, as given.
        num_rows: rows of the trie it was made of.
        leaf_items: of the trie it was made of (not a copy).
    """

    bits: Tensor | None
    ranks: Tensor | None
    excluded: Tensor | None
    excluded_offsets: Tensor | None
    allowed: Tensor | None
    exclude: Jagged | None
    num_rows: int
    leaf_items: Tensor

    def require_trie(self, trie: CatalogTrie) -> None:
        """Raises unless the filter's rows are the rows of ``trie``: the same trie, or one with the same items.

        Raises:
            InvalidValueError: a filter of another trie.
        """
        own: Any = self.leaf_items
        if not isinstance(self.num_rows, int) or self.num_rows != trie.num_rows:
            raise InvalidValueError(
                f"trie_step: allowed must be a filter of this trie, with {trie.num_rows} rows, "
                f"got one of {shown(self.num_rows)} rows"
            )
        if own is trie.leaf_items or torch.compiler.is_compiling():
            return
        require_tensors("trie_step", None, leaf_items=trie.leaf_items)
        require_tensors("trie_step", trie.leaf_items.device, leaf_items=own)
        if own.dtype != trie.leaf_items.dtype or not torch.equal(own, trie.leaf_items):
            raise InvalidValueError("trie_step: allowed must be a filter of this trie, got one of another trie")

    @property
    def num_users(self) -> int | None:
        """Users it was made for; ``None`` where it serves any number of them."""
        excluded_offsets, bits = self.excluded_offsets, self.bits
        try:
            if excluded_offsets is not None:
                return excluded_offsets.numel() - 1
            return None if bits is None or bits.shape[0] == 1 else bits.shape[0]
        except (AttributeError, TypeError, IndexError, RuntimeError) as error:
            raise InvalidTypeError(f"trie_step: a filter must hold tensors [U, words], got {shown(bits)}") from error

    def select(self, users: Tensor) -> TrieFilter:
        """The filter of users int64 ``[m]``, positions among those that it was made for."""

        def of(part: Tensor | None) -> Tensor | None:
            return part if part is None or part.shape[0] == 1 else part[users]

        excluded, excluded_offsets = self.excluded, self.excluded_offsets
        if excluded is not None and excluded_offsets is not None:
            rows = Jagged(excluded[: int(excluded_offsets[-1])], excluded_offsets).select(users)
            excluded, excluded_offsets = rows.values, rows.offsets
        return replace(
            self,
            bits=of(self.bits),
            ranks=of(self.ranks),
            excluded=excluded,
            excluded_offsets=excluded_offsets,
            allowed=of(self.allowed),
            exclude=None if self.exclude is None else self.exclude.select(users),
        )

    @door
    def keeps(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether item ``items[m]`` may be shown to user ``users[m]`` (int64 ``[M]`` both): bool ``[M]``.

        For the items that share a semantic ID: their row is kept as long as one of them may be shown.

        Raises:
            InvalidTypeError: not int64 tensors.
            InvalidValueError: shapes that differ; a user or an item that the filter was not made for.
        """
        require_tensors("TrieFilter.keeps", None, leaf_items=self.leaf_items)
        require_tensors("TrieFilter.keeps", self.leaf_items.device, users=users, items=items)
        if users.dtype != torch.int64 or items.dtype != torch.int64:
            raise InvalidTypeError(
                f"TrieFilter.keeps: users and items must be int64, got {_name(users)} and {_name(items)}"
            )
        if users.dim() != 1 or users.shape != items.shape:
            raise InvalidValueError(
                f"TrieFilter.keeps: users and items must be [M], got {list(users.shape)} and {list(items.shape)}"
            )
        for name, ids, end in (("users", users, self.num_users), ("items", items, self.leaf_items.numel())):
            if ids.is_cpu and ids.numel():  # elsewhere a check would wait for the device
                low, high = (int(bound) for bound in ids.aminmax())
                if low < 0 or (end is not None and high >= end):
                    rule = "at least 0" if end is None else f"in [0, {end})"
                    raise InvalidValueError(f"TrieFilter.keeps: {name} must be {rule}, got {low if low < 0 else high}")
        kept = torch.ones_like(items, dtype=torch.bool)
        if self.allowed is not None:
            require_tensors("TrieFilter.keeps", items.device, allowed=self.allowed)
            if (
                self.allowed.dtype != torch.bool
                or self.allowed.dim() != 2
                or self.allowed.shape[0] < 1
                or self.allowed.shape[1] != self.leaf_items.numel()
            ):
                raise InvalidValueError(
                    f"TrieFilter.keeps: allowed must be bool [U, {self.leaf_items.numel()}], "
                    f"got {_name(self.allowed)} {list(self.allowed.shape)}"
                )
            kept &= self.allowed[users if self.allowed.shape[0] > 1 else torch.zeros_like(users), items]
        if self.exclude is not None:
            if not isinstance(self.exclude, Jagged):
                raise InvalidTypeError(f"TrieFilter.keeps: exclude must be Jagged, got {shown(self.exclude)}")
            require_tensors("TrieFilter.keeps", items.device, exclude=self.exclude.values)
            if self.exclude.values.dtype != torch.int64 or self.exclude.values.dim() != 1:
                raise InvalidTypeError(
                    f"TrieFilter.keeps: exclude must hold int64 [E], got {_name(self.exclude.values)}"
                    f" {list(self.exclude.values.shape)}"
                )
            ends = require_offsets("TrieFilter.keeps", "exclude's offsets", self.exclude.offsets, items.device)
            check_offsets("TrieFilter.keeps", "exclude's offsets", ends, self.exclude.values.shape[0])
            size = max(int(t.max()) for t in (items, self.exclude.values) if t.numel()) + 1 if items.numel() else 1
            kept &= ~torch.isin(users * size + items, self.exclude.row_index() * size + self.exclude.values)
        return kept


@door
def trie_filter(trie: CatalogTrie, *, allowed: Tensor | None = None, exclude: Jagged | None = None) -> TrieFilter:
    """Prepares a filter over items for ``trie_step``.

    A row (semantic ID) passes if at least one of its items is allowed and not excluded; a prefix passes if one of
    the rows below it does. Both are range questions, so a filtered search has no dead ends.

    Args:
        trie: the trie that will be searched.
        allowed: bool ``[N]`` for all users or ``[B, N]`` for each, over item ids; ``None``: all are.
        exclude: integer item ids per user (``[B]`` rows), in any order, repeats allowed; ``None``: none.

    Returns:
        A ``TrieFilter``.

    Raises:
        InvalidTypeError: allowed is not bool, or the ids are not integers.
        InvalidValueError: allowed has another shape, an id is outside ``[0, N)``, or B differs. On a card an id outside
            cannot raise: ``trie_step`` gives such a user nothing that looks like a beam.

    Notes:
        Cost per user: N / 64 words and one write per allowed item; a list of n ids takes O(n log n). The first call
        on a trie also builds its map from items to rows. Not differentiable. Deterministic.

    Source: ours.

    Example:
        >>> import torch
        >>> from genrec_fast.catalog.trie import build_trie
        >>> trie = build_trie(torch.tensor([[0, 1], [0, 2], [3, 1]]))
        >>> trie_filter(trie, allowed=torch.tensor([True, False, True])).bits.tolist()
        [[5]]
    """
    if hasattr(trie, "own_filter"):  # one whose items have changed since it was built
        found: TrieFilter = trie.own_filter(allowed, exclude)
        return found
    items, item_rows, num_rows = _catalog(trie)
    allowed, exclude = filter_arguments(trie.leaf_items.device, items, allowed, exclude)
    bits = ranks = rows = offsets = None
    if allowed is not None:
        require_room("trie_filter", "bits", (allowed.shape[0], num_rows // 64 + 1), 12)
        bits, ranks = _allow(item_rows, allowed, num_rows)
    if exclude is not None:
        rows, offsets = _exclude(
            item_rows, trie.leaf_bases, trie.leaf_deltas, trie.leaf_items, allowed, exclude.values, exclude.offsets
        )
    return TrieFilter(bits, ranks, rows, offsets, allowed, exclude, num_rows, trie.leaf_items)


def filter_arguments(
    device: torch.device, items: int, allowed: Any, exclude: Any
) -> tuple[Tensor | None, Jagged | None]:
    """What ``trie_filter`` was given for so many items: bool ``[U, N]`` and int64 rows, contiguous.

    Raises:
        InvalidTypeError, InvalidValueError: as ``trie_filter``.
    """
    if allowed is not None:
        require_tensors("trie_filter", device, allowed=allowed)
        if allowed.dtype != torch.bool:
            raise InvalidTypeError(f"trie_filter: allowed must be bool, got {_name(allowed)}")
        if allowed.dim() not in (1, 2) or allowed.shape[-1] != items:
            raise InvalidValueError(
                f"trie_filter: allowed must be [{items}] or [B, {items}] (one entry per item), "
                f"got {list(allowed.shape)}"
            )
        allowed = allowed.reshape(-1, items).contiguous() if items else allowed.reshape(allowed.shape[:-1].numel(), 0)
    if exclude is not None:
        if not isinstance(exclude, Jagged):
            raise InvalidTypeError(
                f"trie_filter: exclude must be Jagged (Jagged.from_rows(lists)), got {type(exclude).__name__}"
            )
        require_tensors("trie_filter", device, exclude=exclude.values, offsets=exclude.offsets)
        if exclude.values.dtype not in _WHOLE_NUMBERS:
            raise InvalidTypeError(f"trie_filter: exclude must hold integer item ids, got {_name(exclude.values)}")
        require_offsets("trie_filter", "exclude's offsets", exclude.offsets, device)
        if exclude.values.dim() != 1:
            raise InvalidValueError(f"trie_filter: exclude must hold values [E], got {list(exclude.values.shape)}")
        if allowed is not None and allowed.shape[0] not in (1, len(exclude)):
            raise InvalidValueError(
                f"trie_filter: exclude must have one row per user of allowed, {allowed.shape[0]}, got {len(exclude)}"
            )
        exclude = Jagged(exclude.values.to(torch.int64).contiguous(), exclude.offsets.contiguous())
    return allowed, exclude


def excluding(trie: CatalogTrie, keep: TrieFilter, exclude: Jagged) -> TrieFilter:
    """A filter without lists, and each user's list on top: its bits are not made again.

    Args:
        trie: that of the filter.
        keep: a filter without lists.
        exclude: int64 item ids per user.
    """
    _, item_rows, _ = _catalog(trie)
    leaves = trie.leaf_bases, trie.leaf_deltas, trie.leaf_items
    rows, offsets = _exclude(item_rows, *leaves, keep.allowed, exclude.values, exclude.offsets)
    return replace(keep, excluded=rows, excluded_offsets=offsets, exclude=exclude)


def _catalog(trie: Any) -> tuple[int, Tensor, int]:
    """Items, the row of each, and rows, of a trie that knows them: what the kernels index with is looked at.

    Raises:
        InvalidTypeError: not such a trie, or tensors of another dtype.
        InvalidValueError: tensors that do not fit together.
    """
    require_levels("trie_filter", trie)
    try:
        parts = {name: getattr(trie, name) for name in ("leaf_bases", "leaf_deltas", "leaf_items")}
        items = whole_number("trie_filter", "num_items", trie.num_items, 1, 2**31 - 1)
        rows = whole_number("trie_filter", "num_rows", trie.num_rows, 1, 2**31 - 1)
    except (AttributeError, TypeError, LookupError) as error:
        if isinstance(error, GenrecError):
            raise
        raise InvalidTypeError(
            f"trie_filter: trie must know its items (gf.build_trie makes such a one), got {shown(trie)}"
        ) from error
    _require_leaves(trie, parts, {"leaf_bases": (rows >> 4) + 1, "leaf_deltas": rows + 1, "leaf_items": items})
    item_rows = trie.item_rows
    _require_leaves(trie, {"item_rows": item_rows}, {"item_rows": items})
    return items, item_rows, rows


def _require_leaves(trie: Any, parts: dict[str, Any], sizes: dict[str, int]) -> None:
    require_tensors("trie_filter", trie.tokens[0].device, **parts)
    for name, part in parts.items():
        if part.dtype not in (DELTA_BYTES if name == "leaf_deltas" else (torch.int32,)):
            raise InvalidTypeError(f"trie_filter: {name} of the trie must be those of a trie, got {_name(part)}")
        if part.shape != (sizes[name],) or not part.is_contiguous():
            raise InvalidValueError(
                f"trie_filter: {name} of the trie must be contiguous [{sizes[name]}], got {list(part.shape)}"
            )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _allow_cpu(item_rows: Tensor, allowed: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    bits, ranks = _empty_bits(allowed, num_rows)
    core.trie_filter_allow(item_rows=item_rows, allowed=allowed, num_rows=num_rows, bits=bits, ranks=ranks)
    return bits, ranks


def _exclude_cpu(
    item_rows: Tensor,
    leaf_bases: Tensor,
    leaf_deltas: Tensor,
    leaf_items: Tensor,
    allowed: Tensor | None,
    items: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    rows, row_offsets = _empty_rows(items, offsets)
    core.trie_filter_exclude(
        item_rows=item_rows,
        leaf_bases=leaf_bases,
        leaf_deltas=leaf_deltas,
        leaf_items=leaf_items,
        allowed=allowed,
        items=items,
        offsets=offsets,
        rows=rows,
        row_offsets=row_offsets,
    )
    return rows, row_offsets


def _empty_bits(allowed: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    shape = (allowed.shape[0], num_rows // 64 + 1)
    return allowed.new_empty(shape, dtype=torch.int64), allowed.new_empty(shape, dtype=torch.int32)


def _empty_rows(items: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    return items.new_empty(items.shape, dtype=torch.int32), torch.empty_like(offsets)


def _check_items(item_rows: Tensor, items: Tensor, offsets: Tensor) -> None:
    wrong = ((items < 0) | (items >= item_rows.numel())).nonzero()
    if wrong.numel():
        where = int(wrong[0])
        user = int((offsets <= where).sum()) - 1
        raise InvalidValueError(
            f"trie_filter: exclude must hold item ids in [0, {item_rows.numel()}), "
            f"got {int(items[where])} for user {user}"
        )


_allow = define(
    "trie_filter_allow(Tensor item_rows, Tensor allowed, int num_rows) -> (Tensor bits, Tensor ranks)",
    kernels={"cpu": _allow_cpu, "cuda": allow_on_card},
    twin=lambda item_rows, allowed, num_rows: reference.pack_rows(reference.allowed_rows(item_rows, num_rows, allowed)),
    fake=_empty_bits,
)
_exclude = define(
    "trie_filter_exclude(Tensor item_rows, Tensor leaf_bases, Tensor leaf_deltas, Tensor leaf_items, Tensor? allowed,"
    " Tensor items, Tensor offsets) -> (Tensor rows, Tensor row_offsets)",
    kernels={"cpu": _exclude_cpu, "cuda": exclude_on_card},
    twin=lambda item_rows, leaf_deltas, allowed, items, offsets: reference.excluded_rows(
        item_rows, leaf_deltas.numel() - 1, allowed, items, offsets
    ),
    fake=_empty_rows,
    check=_check_items,
)

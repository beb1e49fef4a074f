"""Items as a caller names them: by name or id, in lists, sets, arrays and masks; and as a search reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, check_dense, is_truth, shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged


class ItemNames(Protocol):
    """Who knows the names: a ``System``."""

    @property
    def num_items(self) -> int: ...
    @property
    def item_numbers(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Items:
    """Reads what one caller says of items.

    An item is its name (a text) or its id (a whole number; truth values are none).

    Args:
        op: named in errors.
        names: who knows the names.
        skip: items that there are not are left out instead of refused.
    """

    op: str
    names: ItemNames
    skip: bool = False

    def rows(self, name: str, rows: Any, limit: int | None = None) -> Jagged:
        """One row for each entry of ``rows``, in its order: int64 ids; -1 for an item to be skipped.

        Args:
            name: of the argument, for errors.
            rows: a list, tensor or array for each user, int64 Jagged or ``[B, S]``; rows may be empty.
            limit: a language model's tokens are read, numbers below it; ``None``: items.

        Raises:
            InvalidTypeError: no rows of names or whole numbers.
            InvalidValueError: an item that there is not.
        """
        if not isinstance(rows, Jagged):
            if not _is_collection(rows) or isinstance(rows, Set):
                raise self._no_rows(name, rows)
            try:
                tensors = [self._row(name, row, rows, limit) for row in rows]
            except TypeError as error:  # a tensor of no dimension cannot be walked through
                raise self._no_rows(name, rows) from error
            values = torch.cat(tensors) if tensors else torch.empty(0, dtype=torch.int64)
            rows = Jagged.from_lengths(values, torch.tensor([len(row) for row in tensors], dtype=torch.int64))
        values = rows.values
        if values.dtype != torch.int64 or values.dim() != 1:
            raise InvalidTypeError(f"{self.op}: {name} must be int64 [E], got {values.dtype} {list(values.shape)}")
        return Jagged(self._known(name, values, limit), rows.offsets)

    def chosen(self, name: str, items: Any, users: int) -> Tensor | Jagged:
        """Some items of the catalog, said in any form.

        Args:
            name: of the argument, for errors.
            items: a list, set, tensor or array of names and ids, for everybody; as many of them as users, or Jagged,
                one for each; or a mask, bool ``[N]`` or ``[B, N]``.
            users: B.

        Returns:
            bool ``[N]`` or ``[B, N]`` where a mask was given; int64 ``[M]`` for everybody; or int64 Jagged of B rows.
            Items to be skipped are left out.

        Raises:
            InvalidTypeError: none of these; integers that look like a mask.
            InvalidValueError: an item that there is not, another number of items or users.
        """
        if isinstance(items, Jagged):
            if items.values.dtype != torch.int64:
                raise InvalidTypeError(f"{self.op}: {name} must be int64 Jagged of item ids, got {items.values.dtype}")
            return self._kept_rows(name, items, users)
        if isinstance(items, np.ndarray):
            items = torch.from_numpy(items) if items.dtype.kind == "b" else _array(items)
        if isinstance(items, Tensor) and items.dtype == torch.uint64:
            check_dense(self.op, name, items)
            items = items.tolist()  # int64 cannot hold them
        if isinstance(items, Tensor):
            return self._of_tensor(name, items, users)
        if not _is_collection(items):
            raise InvalidTypeError(
                f"{self.op}: {name} must be item ids or names (a list or set for everybody, or one for each user) or "
                f"bool [{self.names.num_items}], got {shown(items)}"
            )
        given = [item if _is_single(item) or hasattr(item, "dtype") else list(item) for item in items]
        single = [_is_single(item) for item in given]
        if any(single) and not all(single):
            raise InvalidTypeError(f"{self.op}: {name} must be items, or a list of them for each user, got both")
        if given and not any(single):
            if all(_is_mask(row) for row in given):
                return self._of_tensor(name, _stacked(self.op, name, given), users)
            return self._kept_rows(name, given, users)
        if given and all(map(is_truth, given)):
            return self._of_tensor(name, torch.tensor([bool(item) for item in given]), users)
        return self._flat(name, given)

    def _of_tensor(self, name: str, items: Tensor, users: int) -> Tensor | Jagged:
        check_dense(self.op, name, items)
        count = self.names.num_items
        if items.dtype == torch.bool:
            if tuple(items.shape) not in ((count,), (users, count)):
                raise InvalidValueError(
                    f"{self.op}: {name} must be [{count}] or [{users}, {count}], got {list(items.shape)}"
                )
            return items
        if items.numel() and (items.is_floating_point() or items.is_complex()):
            kind = str(items.dtype).removeprefix("torch.")
            raise InvalidTypeError(f"{self.op}: {name} must be bool, got {kind}; item ids and names will do, too")
        if items.dim() == 2:
            return self._kept_rows(name, items, users)
        return self._flat(name, items)

    def _flat(self, name: str, items: Any) -> Tensor:
        ids = self.rows(name, [items]).values
        if ids.shape[0] == self.names.num_items > 2 and _zeros_and_ones(items):  # nobody means item 1
            raise InvalidTypeError(
                f"{self.op}: {name} must be bool, got int64 [{ids.shape[0]}] of 0 and 1, which would be item ids"
            )
        return ids[ids >= 0]

    def _kept_rows(self, name: str, rows: Any, users: int) -> Jagged:
        found = self.rows(name, rows)
        if len(found) != users:
            raise InvalidValueError(f"{self.op}: {name} must have {users} rows, got {len(found)}")
        count = self.names.num_items
        if users and count > 2 and bool((found.lengths == count).all()) and all(map(_zeros_and_ones, _each(rows))):
            raise InvalidTypeError(
                f"{self.op}: {name} must be bool, got [{users}, {count}] of 0 and 1, which would be item ids"
            )
        return found.kept(found.values >= 0)

    def _row(self, name: str, row: Any, rows: Any, limit: int | None) -> Tensor:
        """int64 ids of one row, not yet in range; -1 for a name to be skipped."""
        if isinstance(row, np.ndarray):
            row = _array(row)
        if isinstance(row, Tensor):
            whole = not (row.dtype == torch.bool or row.is_floating_point() or row.is_complex())
            if row.dim() != 1 or not (whole or row.numel() == 0):
                raise self._no_rows(name, rows)
            check_dense(self.op, name, row)
            if row.dtype != torch.uint64:
                return row.to(torch.int64).cpu()
            row = row.tolist()  # int64 cannot hold them
        if not _is_collection(row) or isinstance(row, Set):
            raise self._no_rows(name, rows)
        ids = list(row)
        if any(type(item) is not int for item in ids):
            ids = [self._id(name, item, rows, limit) for item in ids]
        try:
            return torch.tensor(ids, dtype=torch.int64)
        except (OverflowError, RuntimeError, ValueError) as error:  # torch: any, for more than 64 bits
            low, high = INT64
            if not self.skip:
                raise self._outside(name, next(item for item in ids if not low <= item <= high), limit) from error
            return torch.tensor([item if low <= item <= high else -1 for item in ids], dtype=torch.int64)

    def _id(self, name: str, item: Any, rows: Any, limit: int | None) -> int:
        if isinstance(item, str) and limit is None:
            number = self.names.item_numbers.get(item)
            if number is None and not self.skip:
                known = self.names.item_numbers
                raise InvalidValueError(
                    f"{self.op}: each item of {name} must be one of the catalog's {len(known)} names "
                    f"(such as {next(iter(known))!r}), got {item!r:.80}"
                )
            return -1 if number is None else number
        if isinstance(item, Tensor) and item.dim() == 0:
            item = item.item()
        if is_truth(item) or not isinstance(item, (int, np.integer)):
            raise self._no_rows(name, rows)
        return int(item)

    def _known(self, name: str, ids: Tensor, limit: int | None) -> Tensor:
        most = self.names.num_items if limit is None else limit
        outside = (ids < 0) | (ids >= most)
        if not bool(outside.any()):
            return ids
        if not self.skip:
            raise self._outside(name, int(ids[outside][0]), limit)
        return ids.masked_fill(outside, -1)

    def _outside(self, name: str, item: int, limit: int | None) -> InvalidValueError:
        most = self.names.num_items if limit is None else limit
        what = "item ids" if limit is None else "tokens"
        return InvalidValueError(f"{self.op}: {name} must hold {what} in [0, {most}), got {shown(item)}")

    def _no_rows(self, name: str, rows: Any) -> InvalidTypeError:
        return InvalidTypeError(
            f"{self.op}: {name} must be lists of item ids (whole numbers) or names, one list per user, got {rows!r:.80}"
        )


def mask_of(items: Tensor | Jagged, num_items: int) -> Tensor:
    """Bool ``[N]``, or ``[B, N]`` for rows, of what ``Items.chosen`` gives."""
    if isinstance(items, Jagged):
        each = torch.zeros(len(items), num_items, dtype=torch.bool)
        each[items.row_index(), items.values] = True
        return each
    if items.dtype == torch.bool:
        return items
    mask = torch.zeros(num_items, dtype=torch.bool)
    mask[items] = True
    return mask


def _is_collection(items: Any) -> bool:
    return isinstance(items, Iterable) and not isinstance(items, (str, bytes, Mapping))


def _is_single(item: Any) -> bool:
    """Whether it stands for one item at most, rather than for a user's."""
    if isinstance(item, (Tensor, np.ndarray)):
        return item.ndim == 0
    return not _is_collection(item)


def _is_mask(row: Any) -> bool:
    if isinstance(row, (Tensor, np.ndarray)):
        return is_truth(row)
    return bool(row) and all(map(is_truth, row))


def _stacked(op: str, name: str, rows: list[Any]) -> Tensor:
    masks = [torch.as_tensor(row, dtype=torch.bool) for row in rows]
    if any(mask.shape != masks[0].shape for mask in masks):
        raise InvalidValueError(f"{op}: {name} must have rows of equal length, got masks of several lengths")
    return torch.stack(masks)


def _zeros_and_ones(items: Any) -> bool:
    """Whether it holds the whole numbers 0 and 1 alone, as they were given: a name is none of them."""
    if isinstance(items, Tensor):
        return bool(((items == 0) | (items == 1)).all())
    return all(not isinstance(item, str) and int(item) in (0, 1) for item in items)


def _each(rows: Any) -> Iterable[Any]:
    return rows.rows() if isinstance(rows, Jagged) else rows


def _array(array: np.ndarray[Any, Any]) -> Any:
    """An array of integers as a tensor; of anything else (texts, objects, uint64 beyond int64) as lists."""
    return torch.from_numpy(array.astype(np.int64)) if _is_int64(array) else array.tolist()


def _is_int64(array: np.ndarray[Any, Any]) -> bool:
    """Whether int64 can hold all of it."""
    return array.dtype.kind == "i" or (array.dtype.kind == "u" and int(array.max(initial=0)) <= INT64[1])

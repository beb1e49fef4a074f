"""Which items a query may find: checked, and laid out as the kernels read it."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.checks import require_room, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda
from genrec_fast.ops._cuda_jagged import checked_offsets
from genrec_fast.ops._tensors import check_offsets, require_offsets

_MANY = 1 << 20  # numbers: no machine lacks the room for fewer, and the question costs 0.4 us


def require_allowed(op: str, allowed: Tensor | None, count: int, num_items: int, device: torch.device) -> Tensor | None:
    """Bool ``[1, N]`` or ``[B, N]``, or ``None``.

    Raises:
        InvalidTypeError: not a bool tensor.
        InvalidValueError: another shape or device.
    """
    if allowed is None:
        return None
    require_tensors(op, device, allowed=allowed)
    if allowed.dtype != torch.bool:
        raise InvalidTypeError(f"{op}: allowed must be bool, got {str(allowed.dtype).removeprefix('torch.')}")
    if tuple(allowed.shape) not in ((num_items,), (1, num_items), (count, num_items)):
        raise InvalidValueError(
            f"{op}: allowed must be [{num_items}] or [{count}, {num_items}], got {list(allowed.shape)}"
        )
    return allowed if allowed.dim() == 2 else allowed[None]


def _lists(op: str, exclude: Jagged, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64 ids and offsets; no value is looked at.

    Raises:
        InvalidTypeError: no int64 Jagged.
        InvalidValueError: another number of rows, or offsets of another shape.
    """
    if isinstance(exclude, Jagged):
        require_tensors(op, device, exclude=exclude.values, offsets=exclude.offsets)
        require_offsets(op, "exclude's offsets", exclude.offsets, device)
    if not isinstance(exclude, Jagged) or exclude.values.dtype != torch.int64 or exclude.values.dim() != 1:
        what = exclude.values.dtype if isinstance(exclude, Jagged) else type(exclude).__name__
        raise InvalidTypeError(f"{op}: exclude must be int64 Jagged, got {what}")
    if len(exclude) != count:
        raise InvalidValueError(f"{op}: exclude must have one row for each of {count} queries, got {len(exclude)}")
    return exclude.values, require_offsets(op, "exclude's offsets", exclude.offsets, device)


def require_exclude(
    op: str, exclude: Jagged | None, count: int, num_items: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Ids ascending in every row, and offsets; ``None`` where nothing is excluded.

    Of lists on a card nothing is read back: ids outside the items become N there, and stand last in their row; offsets
    that break their rules become -1.

    Raises:
        InvalidTypeError: no int64 Jagged.
        InvalidValueError: another number of rows, wrong offsets, or an id outside ``[0, N)``.
    """
    if exclude is None:
        return None, None
    values, offsets = _lists(op, exclude, count, device)
    if _cuda.emulates() or (device.type == "cuda" and _cuda.can_launch()):
        return (None, None) if values.numel() == 0 else ascending(values, offsets, num_items)
    check_offsets(op, "exclude's offsets", offsets, values.numel())
    if values.numel() == 0:
        return None, None
    low, high = (int(v) for v in values.aminmax())
    if low < 0 or high >= num_items:
        raise InvalidValueError(f"{op}: exclude must hold item ids in [0, {num_items}), got {low if low < 0 else high}")
    rows = exclude.row_index()
    return (rows * num_items + values).sort().values - rows * num_items, offsets


def ascending(ids: Tensor, offsets: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """int64 ids ascending in every row, and offsets, without a look at a value: see ``require_exclude`` on cards."""
    places = torch.arange(len(ids), device=ids.device)
    rows = (torch.searchsorted(offsets, places, right=True) - 1).clamp(0, max(0, len(offsets) - 2))
    inside = torch.where((ids >= 0) & (ids < num_items), ids, num_items)
    ordered = (rows * (num_items + 1) + inside).sort().values - rows * (num_items + 1)
    return ordered, checked_offsets(offsets, len(ids))


def hide(scores: Tensor, allowed: Tensor | None, exclude_ids: Tensor | None, exclude_offsets: Tensor | None) -> Tensor:
    """Scores ``[B, N]`` with -inf where an item may not be found, for twins; ids outside are not looked at."""
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    if exclude_ids is not None and exclude_offsets is not None:
        lengths = exclude_offsets[1:] - exclude_offsets[:-1]
        rows = torch.repeat_interleave(torch.arange(len(scores), device=scores.device), lengths)
        inside = exclude_ids < scores.shape[1]
        scores[rows[inside], exclude_ids[inside]] = -torch.inf
    return scores


def lists(op: str, count: int, num_items: int, k: int) -> tuple[Tensor, Tensor]:
    """Scores and ids ``[B, min(k, N)]``, at least one column, for a kernel to fill.

    Raises:
        InvalidValueError, UnsupportedError: B x k are more than the machine has.
    """
    if count * k > _MANY:
        require_room(op, "ids", (count, k), 8)
    width = max(1, min(k, num_items))
    # 0.4 us less than by a tuple, each
    return torch.empty(count, width, dtype=torch.float32), torch.empty(count, width, dtype=torch.int64)


def lengthened(scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and ids ``[B, m]``, m at most k, as ``[B, k]``: -inf and -1 behind the last."""
    short = k - scores.shape[1]
    if not short:
        return scores, ids
    pad = torch.nn.functional.pad
    return pad(scores, (0, short), value=-torch.inf), pad(ids, (0, short), value=-1)

"""What the ops over items written as codes read: users' scores of codes, and the items' codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import numbers, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

_MOST_ITEMS = (1 << 31) - 1
CODE_DTYPES = (torch.uint8, torch.int32)


def require_code_sums(op: str, logprobs: Tensor, item_codes: Tensor, codebook_sizes: Sequence[int]) -> list[int]:
    """The sizes as a list: dtypes, shapes and devices fit together; values are the kernel's to look at.

    Raises:
        InvalidTypeError: not a dense tensor, or of another dtype.
        InvalidValueError: a shape, a device or sizes that do not fit.
    """
    require_tensors(op, None, logprobs=logprobs, item_codes=item_codes)
    if logprobs.dtype != torch.float32:
        raise InvalidTypeError(f"{op}: logprobs must be float32 [B, V], got {logprobs.dtype}")
    if logprobs.dim() != 2:
        raise InvalidValueError(f"{op}: logprobs must be [B, V], got {list(logprobs.shape)}")
    return require_item_codes(op, item_codes, codebook_sizes, logprobs.device, logprobs.shape[1])


def require_item_codes(
    op: str, item_codes: Tensor, codebook_sizes: Sequence[int], device: torch.device, width: int | None = None
) -> list[int]:
    """The sizes as a list, one for each level of the codes, which lie on the device and, with ``width``, add up to it.

    Raises:
        InvalidTypeError: not a dense tensor, or of another dtype.
        InvalidValueError: a shape, a device or sizes that do not fit.
    """
    require_tensors(op, None, item_codes=item_codes)
    if item_codes.dtype not in CODE_DTYPES:
        raise InvalidTypeError(f"{op}: item_codes must be uint8 or int32 [N, L], got {item_codes.dtype}")
    if item_codes.dim() != 2 or item_codes.shape[1] < 1:
        raise InvalidValueError(f"{op}: item_codes must be [N, L] with L at least 1, got {list(item_codes.shape)}")
    if item_codes.device != device:
        raise InvalidValueError(f"{op}: item_codes must be on {device} like the rest, got {item_codes.device}")
    if item_codes.shape[0] > _MOST_ITEMS:
        raise InvalidValueError(f"{op}: item_codes must have at most 2^31 - 1 rows, got {item_codes.shape[0]}")
    sizes = numbers(op, "codebook_sizes", codebook_sizes, 1, _MOST_ITEMS)
    levels = item_codes.shape[1]
    if width is not None and (len(sizes) != levels or sum(sizes) != width):
        raise InvalidValueError(
            f"{op}: codebook_sizes must be {levels} that add up to {width}, "
            f"got {len(sizes)} that add up to {sum(sizes)}"
        )
    if len(sizes) != levels:
        raise InvalidValueError(f"{op}: codebook_sizes must be those of {levels} levels, got {len(sizes)}")
    return sizes


def check_logprobs(op: str, logprobs: Tensor) -> None:
    """Raises InvalidValueError where a score is NaN or infinity; -infinity may be."""
    wrong = (~(logprobs < torch.inf)).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InvalidValueError(f"{op}: logprobs must be finite or -inf, got NaN or infinity in row {row}")


def check_codes(op: str, item_codes: Tensor, sizes: Sequence[int]) -> None:
    """Raises InvalidValueError where a code lies outside its codebook, naming the first item."""
    wrong = (item_codes < 0) | (item_codes >= torch.tensor(sizes, device=item_codes.device))
    if bool(wrong.any()):
        item, level = wrong.nonzero()[0].tolist()
        raise InvalidValueError(
            f"{op}: item_codes of level {level} must be in [0, {sizes[level]}), "
            f"got {int(item_codes[item, level])} for item {item}"
        )

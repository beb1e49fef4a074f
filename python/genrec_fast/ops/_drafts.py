"""What the ops on drafts check alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genrec_fast.base.checks import require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops._search_call import described

_KINDS = {torch.int32: "int32", torch.int64: "int64", torch.float32: "float32"}


def require_shapes(op: str, given: Mapping[str, tuple[object, torch.dtype, str]], sizes: dict[str, int]) -> None:
    """Tensors of a kind and shape on one device; letters stand for sizes, known ones in ``sizes``, new ones go there.

    Raises:
        InvalidTypeError: no dense tensor, or of another dtype.
        InvalidValueError: another shape or device.
    """
    device = None
    for name, (value, dtype, shape) in given.items():
        require_tensors(op, device, **{name: value})
        assert isinstance(value, Tensor)
        device = value.device
        letters = shape.split()
        wanted = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
        if value.dtype != dtype:
            raise InvalidTypeError(f"{op}: {name} must be {_KINDS[dtype]} [{wanted}], got {described(value)}")
        fits = value.dim() == len(letters)
        for letter, size in zip(letters, value.shape, strict=False):
            fits = fits and sizes.setdefault(letter, size) == size
        if not fits:
            raise InvalidValueError(f"{op}: {name} must be [{wanted}], got {list(value.shape)}")


def check_row_parents(op: str, row_parents: Tensor, row_codes: Tensor) -> None:
    """Raises where a row that is looked up stands behind none."""
    wrong = (row_codes >= 0) & ((row_parents < 0) | (row_parents >= row_codes.shape[1]))
    if bool(wrong.any()):
        user, row = wrong.nonzero()[0].tolist()
        got = row_parents[user, row].item()
        rule = f"row_parents must be in [0, {row_codes.shape[1]})"
        raise InvalidValueError(f"{op}: {rule}, got {got} for user {user}, row {row}")


def check_numbers(op: str, name: str, values: Tensor, low: int, high: int) -> None:
    """Raises for the first value outside ``[low, high]``."""
    wrong = (values < low) | (values > high)
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        got = values[tuple(place)].item()
        raise InvalidValueError(f"{op}: {name} must be in [{low}, {high}], got {got} at {place}")

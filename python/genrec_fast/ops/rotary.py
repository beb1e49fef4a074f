"""Queries and keys turned by their positions, behind a norm of each head where one is asked for."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.base.checks import FLOAT32, real_number, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError, door
from genrec_fast.ops import _cuda
from genrec_fast.ops._registry import define
from genrec_fast.ops._tensors import FLOATS, readable
from genrec_fast.ops.reference.rotary import rotary as _twin

_OP = "rotary"
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_MOST_WIDTH, _WARPS = 256, 4  # of a head; of a block
_MOST = (1 << 31) - 1


@door
def rotary(
    x: Tensor, positions: Tensor, table: Tensor, *, weight: Tensor | None = None, epsilon: float = 1e-6
) -> Tensor:
    """Turns pairs of channels of each head by its row's position.

    ::

        y = x / sqrt(mean(x ** 2) + epsilon) * weight                    # over D; x itself without weight
        cos, sin = table[position][: W // 2], table[position][W // 2 :]
        out[c], out[c + W // 2] = y[c] * cos[c] - y[c + W // 2] * sin[c], y[c + W // 2] * cos[c] + y[c] * sin[c]
        out[c] = y[c]                                                    # for c from W on

    Args:
        x: float32, bfloat16 or float16 ``[R, H, D]``, D at most 256: queries or keys. Heads of a longer row (a part of
            what one product made) are read in place.
        positions: int64 or int32 ``[R]``, in ``[0, P)``.
        table: float32 ``[P, W]``, W even and at most D: cosines, then sines of each position's angles.
        weight: like x, ``[D]``: each head passes this root mean square norm first (Qwen3's q_norm, k_norm).
        epsilon: of that norm, at least 0.

    Returns:
        ``[R, H, D]`` in x's dtype.

    Raises:
        InvalidTypeError: an argument of another kind or dtype than the above.
        InvalidValueError: a wrong shape, device or epsilon; a position outside the table (a card cannot raise for a
            value: there such a row is NaN).

    Notes:
        float32 within. Cost on a card: each element is read and written once, in one launch that waits for nothing; a
        head's bits depend on that head and its position alone. On the CPU plain torch runs. Not differentiable.

    Source:
        RoFormer (arXiv:2104.09864, equation 34), halves paired as in GPT-NeoX. The norm: Qwen3 (arXiv:2505.09388,
        section 2).

    Example:
        >>> import torch, genrec_fast as gf
        >>> table = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # angles 0 and 90 degrees
        >>> x = torch.tensor([[[3.0, 4.0]], [[3.0, 4.0]]])
        >>> gf.ops.rotary(x, torch.tensor([0, 1]), table).tolist()
        [[[3.0, 4.0]], [[-4.0, 3.0]]]
    """
    require_tensors(_OP, None, x=x)
    if x.dtype not in FLOATS:
        raise InvalidTypeError(f"{_OP}: x must be float32, bfloat16 or float16 [R, H, D], got {x.dtype}")
    if x.dim() != 3 or not 1 <= x.shape[2] <= _MOST_WIDTH:
        raise InvalidValueError(f"{_OP}: x must be [R, H, D] with D in [1, {_MOST_WIDTH}], got {list(x.shape)}")
    rows, _, width = x.shape
    require_tensors(_OP, x.device, positions=positions, table=table)
    if positions.dtype not in (torch.int64, torch.int32):
        raise InvalidTypeError(f"{_OP}: positions must be int64 or int32 [R], got {positions.dtype}")
    if list(positions.shape) != [rows]:
        raise InvalidValueError(f"{_OP}: positions must be [{rows}], got {list(positions.shape)}")
    if table.dtype != torch.float32:
        raise InvalidTypeError(f"{_OP}: table must be float32 [P, W], got {table.dtype}")
    if table.dim() != 2 or table.shape[1] % 2 or table.shape[1] > width:
        rule = f"[P, W] with W even and at most {width}"
        raise InvalidValueError(f"{_OP}: table must be {rule}, got {list(table.shape)}")
    if weight is not None:
        require_tensors(_OP, x.device, weight=weight)
        if weight.dtype != x.dtype:
            raise InvalidTypeError(f"{_OP}: weight must be {x.dtype} like x, got {weight.dtype}")
        if list(weight.shape) != [width]:
            raise InvalidValueError(f"{_OP}: weight must be [{width}], got {list(weight.shape)}")
    small = real_number(_OP, "epsilon", epsilon, FLOAT32)
    if small < 0:
        raise InvalidValueError(f"{_OP}: epsilon must be at least 0, got {small}")
    out: Tensor = _op(x.detach(), positions, table.detach(), None if weight is None else weight.detach(), small)
    return out


class _Args(ctypes.Structure):
    """``rotary::Args`` of ``csrc/cuda/rotary.cuh``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight")),
        *((name, ctypes.c_longlong) for name in ("row_stride", "head_stride", "rows", "places")),
        *((name, ctypes.c_int) for name in ("heads", "width", "turned")),
        ("epsilon", ctypes.c_float),
    )


def _plain(x: Tensor, positions: Tensor, table: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    _check(positions, table)
    return _twin(x, positions, table, weight, epsilon)


def _card(x: Tensor, positions: Tensor, table: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    rows, heads, width = x.shape
    if rows * heads > _MOST:
        raise UnsupportedError(f"{_OP}: x must have at most {_MOST} heads of rows on a card, got {rows * heads}")
    if x.data_ptr() % x.element_size() or not (x.stride(2) == 1 or width == 1):
        x = x.clone(memory_format=torch.contiguous_format)
    weight = None if weight is None else readable(weight)
    out = x.new_empty(rows, heads, width)
    addresses = (x.data_ptr(), None if weight is None else weight.data_ptr())
    args = _Args(*addresses, *x.stride()[:2], rows, len(table), heads, width, table.shape[1], epsilon)
    grid = (-(-rows * heads // _WARPS), 1, 1)
    given = (args, readable(positions).long(), readable(table), out)
    _cuda.launch(_OP, f"{_OP}_{_NAMES[x.dtype]}", grid, (32 * _WARPS, 1, 1), 0, given)
    return out


def _check(positions: Tensor, table: Tensor) -> None:
    wrong = (positions < 0) | (positions >= len(table))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InvalidValueError(
            f"{_OP}: positions must be in [0, {len(table)}), got {int(positions[row])} in row {row}"
        )


_op = define(
    "rotary(Tensor x, Tensor positions, Tensor table, Tensor? weight, float epsilon) -> Tensor",
    kernels={"cpu": _plain, "cuda": _card},
    twin=_twin,
    fake=lambda x: x.new_empty(x.shape),
    check=_check,
)

"""The residual stream between two products: what a branch adds to it, and the norm of the sum."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.base.checks import FLOAT32, choice, real_number, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError, door
from genrec_fast.ops import _cuda
from genrec_fast.ops._registry import define
from genrec_fast.ops._tensors import FLOATS, readable
from genrec_fast.ops.reference.residual_norm import residual_norm as _twin

_OP = "residual_norm"
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_OWN = 32  # columns of a thread: `own` of csrc/cuda/residual_norm.cuh
_WARP, _ROWS = 32 * _OWN, 4  # the most columns of a warp's row; rows of a block of warps
MOST_ON_CARD = 512 * _OWN
"""columns of a row, where kernels for cards run"""


@door
def residual_norm(
    x: Tensor,
    weight: Tensor,
    *,
    added: Tensor | None = None,
    bias: Tensor | None = None,
    kind: str = "rms",
    epsilon: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Adds a branch to the residual stream, and norms each row of the sum.

    ::

        total = x + added                                             # rounded to x's dtype; x where nothing is added
        rms:   out = total / sqrt(mean(total ** 2) + epsilon) * weight (+ bias)
        layer: out = (total - mean(total)) / sqrt(var(total) + epsilon) * weight (+ bias)

    Args:
        x: float32, bfloat16 or float16 ``[R, D]``: the stream.
        weight: like x, ``[D]``.
        added: like x, ``[R, D]``; ``None``: nothing is added.
        bias: like x, ``[D]``; ``None``: none.
        kind: "rms" (T5, Llama) or "layer" (mean and biased variance).
        epsilon: added to the mean square, at least 0.

    Returns:
        ``out [R, D]`` and ``total [R, D]``, in x's dtype; total is x itself where nothing is added.

    Raises:
        InvalidTypeError: an argument of another kind or dtype than the above.
        InvalidValueError: a wrong shape, device, kind or epsilon.
        UnsupportedError: on a card, D above 16384.

    Notes:
        Sums are float32. Cost on a card: each element is read once and written once or twice, in one launch that
        waits for nothing; a row's bits depend on that row alone. On the CPU plain torch runs. Not differentiable.

    Source:
        RMSNorm: arXiv:1910.07467, equation 4. LayerNorm: arXiv:1607.06450, equation 4.

    Example:
        >>> import torch, genrec_fast as gf
        >>> x, more = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, -6.0]])
        >>> out, total = gf.ops.residual_norm(x, torch.ones(2), added=more, kind="layer", epsilon=0.0)
        >>> out.tolist(), total.tolist()
        ([[1.0, -1.0]], [[3.0, -4.0]])
    """
    require_tensors(_OP, None, x=x)
    if x.dtype not in FLOATS:
        raise InvalidTypeError(f"{_OP}: x must be float32, bfloat16 or float16 [R, D], got {x.dtype}")
    if x.dim() != 2 or x.shape[1] < 1:
        raise InvalidValueError(f"{_OP}: x must be [R, D] with D at least 1, got {list(x.shape)}")
    _check_like(x, [x.shape[1]], weight=weight)
    if added is not None:
        _check_like(x, list(x.shape), added=added)
    if bias is not None:
        _check_like(x, [x.shape[1]], bias=bias)
    centred = choice(_OP, "kind", kind, ("rms", "layer")) == "layer"
    small = real_number(_OP, "epsilon", epsilon, FLOAT32)
    if small < 0:
        raise InvalidValueError(f"{_OP}: epsilon must be at least 0, got {small}")
    x = x.detach()
    parts = (None if part is None else part.detach() for part in (added, weight, bias))
    out, total = _op(x, *parts, centred, small)
    return out, x if added is None else total


def _check_like(x: Tensor, shape: list[int], **tensors: Tensor) -> None:
    require_tensors(_OP, x.device, **tensors)
    for name, tensor in tensors.items():
        if tensor.dtype != x.dtype:
            raise InvalidTypeError(f"{_OP}: {name} must be {x.dtype} like x, got {tensor.dtype}")
        if list(tensor.shape) != shape:
            raise InvalidValueError(f"{_OP}: {name} must be {shape}, got {list(tensor.shape)}")


class _Args(ctypes.Structure):
    """``residual_norm::Args`` of ``csrc/cuda/residual_norm.cuh``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "added", "weight", "bias")),
        ("rows", ctypes.c_longlong),
        *((name, ctypes.c_int) for name in ("width", "centred", "whole_vectors")),
        ("epsilon", ctypes.c_float),
    )


def _plain(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, centred: bool, epsilon: float
) -> tuple[Tensor, Tensor]:
    """On the CPU, where the native engine's own kernels run whole levels."""
    return _twin(x, added, weight, bias, centred, epsilon)


def _card(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, centred: bool, epsilon: float
) -> tuple[Tensor, Tensor]:
    rows, width = x.shape
    if width > MOST_ON_CARD or rows > (1 << 31) - 1:
        raise UnsupportedError(
            f"{_OP}: x must be at most [{(1 << 31) - 1}, {MOST_ON_CARD}] on a card, got {[rows, width]}"
        )
    given = [None if part is None else readable(part) for part in (x, added, weight, bias)]
    out = x.new_empty(rows, width)
    total = x.new_empty(0 if added is None else rows, width)
    addresses = [None if part is None else part.data_ptr() for part in given]
    aligned = all((address or 0) % 16 == 0 for address in (*addresses, out.data_ptr(), total.data_ptr()))
    args = _Args(*addresses, rows, width, centred, aligned and width * x.element_size() % 16 == 0, epsilon)
    warps = -(-width // _WARP)
    name, count = _NAMES[x.dtype], rows if warps > 1 else -(-rows // _ROWS)
    kernel = f"{_OP}_{'block' if warps > 1 else 'warp'}_{name}"
    threads = 32 * (warps if warps > 1 else _ROWS)
    _cuda.launch(_OP, kernel, (count, 1, 1), (threads, 1, 1), 4 * warps, (args, out, None if added is None else total))
    return out, total


def _fake(x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape if added is not None else (0, x.shape[1]))


_op = define(
    "residual_norm(Tensor x, Tensor? added, Tensor weight, Tensor? bias, bool centred, float epsilon)"
    " -> (Tensor, Tensor)",
    kernels={"cpu": _plain, "cuda": _card},
    twin=_twin,
    fake=_fake,
)

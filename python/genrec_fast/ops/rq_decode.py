"""Semantic IDs -> vectors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda
from genrec_fast.ops._registry import core, define, differentiable
from genrec_fast.ops._tensors import allocate, require_codebooks
from genrec_fast.ops.reference.rq_decode import rq_decode as _twin

_THREADS = 256  # of a block on a card
_AT_ONCE = 8  # codebooks of a launch


@door
def rq_decode(codes: Tensor, codebooks: Sequence[Tensor], *, num_levels: int | None = None) -> Tensor:
    """The vector that each semantic ID, or a prefix of it, stands for: the sum of its centroids.

    ``out = 0; for l in range(num_levels): out = out + codebooks[l][codes[:, l]]``

    Args:
        codes: int32 or int64 ``[N, L]``; N may be 0.
        codebooks: float32, bfloat16 or float16 ``[K_l, D]`` per level, of any sizes.
        num_levels: levels to read, in ``[1, min(L, len(codebooks))]``; ``None``: all L. Codes with a dedup level behind
            the codebooks' levels need it.

    Returns:
        float32 ``[N, D]``.

    Raises:
        InvalidTypeError: an argument of another kind or dtype than the above.
        InvalidValueError: a wrong shape, device or num_levels; a code outside its codebook (naming row and level; on a
            card such a row is NaN instead).

    Notes:
        float32, level after level from zero: equal bits on every instruction set and number of threads. Cost: one
        addition per element and level, the result is written once. Differentiable in the codebooks (a row's
        gradient goes to each of its centroids). NaN and infinity in a codebook pass on to the rows that use them.

    Source:
        Chen, Guan and Wang, "Approximate nearest neighbor search by residual vector quantization", 2010, equation 2.

    Example:
        >>> import torch, genrec_fast as gf
        >>> books = [torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.5]])]
        >>> gf.ops.rq_decode(torch.tensor([[1, 0], [0, 0]]), books).tolist()
        [[2.0, 0.5], [1.0, 0.5]]
        >>> gf.ops.rq_decode(torch.tensor([[1, 0]]), books, num_levels=1).tolist()
        [[2.0, 0.0]]
    """
    require_tensors("rq_decode", None, codes=codes)
    if codes.dtype not in (torch.int32, torch.int64):
        raise InvalidTypeError(f"rq_decode: codes must be int32 or int64 [N, L], got {codes.dtype}")
    if codes.dim() != 2 or codes.shape[1] < 1:
        raise InvalidValueError(f"rq_decode: codes must be [N, L] with L at least 1, got {list(codes.shape)}")
    books = require_codebooks("rq_decode", codebooks, codes.device)
    levels = codes.shape[1]
    if num_levels is None:
        if levels > len(books):
            raise InvalidValueError(
                f"rq_decode: codes must have at most {len(books)} levels, one per codebook, got {levels}; "
                f"num_levels={len(books)} leaves a dedup level unread"
            )
        num_levels = levels
    num_levels = whole_number("rq_decode", "num_levels", num_levels, *INT64)
    if not 1 <= num_levels <= min(levels, len(books)):
        raise InvalidValueError(f"rq_decode: num_levels must be in [1, {min(levels, len(books))}], got {num_levels}")
    out: Tensor = _op(codes[:, :num_levels], books[:num_levels])
    return out


def _cpu(codes: Tensor, codebooks: list[Tensor]) -> Tensor:
    out = allocate("rq_decode", "out", codes.shape[0], codebooks[0].shape[1])
    core.rq_decode(
        codes=codes, codebooks=[book.float() for book in codebooks], out=out, num_threads=torch.get_num_threads()
    )
    return out


class _Codebooks(ctypes.Structure):
    """``Codebooks`` of ``csrc/cuda/rq_decode.cuh``."""

    _fields_ = (
        ("rows", ctypes.c_void_p * _AT_ONCE),
        ("count", ctypes.c_longlong * _AT_ONCE),
        ("num_levels", ctypes.c_int),
    )


def _card(codes: Tensor, codebooks: list[Tensor]) -> Tensor:
    codes = codes if codes.stride(1) == 1 else codes.contiguous()
    books = [book.float().contiguous() for book in codebooks]
    rows, depth = codes.shape[0], books[0].shape[1]
    out = codes.new_empty((rows, depth), dtype=torch.float32)
    four = depth % 4 == 0 and all(book.data_ptr() % 16 == 0 for book in books)
    kernel = f"rq_decode_{'int32' if codes.dtype == torch.int32 else 'int64'}_{'four' if four else 'one'}"
    blocks = -(-rows * depth // (_THREADS * (4 if four else 1)))
    for first in range(0, len(books), _AT_ONCE):
        some = books[first : first + _AT_ONCE]
        held = _Codebooks(num_levels=len(some))
        for level, book in enumerate(some):
            held.rows[level], held.count[level] = book.data_ptr(), book.shape[0]
        numbers = [_cuda.int64(codes.stride(0)), _cuda.int64(rows), _cuda.int64(depth), _cuda.int32(first > 0)]
        arguments = (held, codes[:, first:], *numbers, out)
        _cuda.launch("rq_decode", kernel, (blocks, 1, 1), (_THREADS, 1, 1), 0, arguments)
    return out


def _check(codes: Tensor, codebooks: list[Tensor]) -> None:
    sizes = torch.tensor([book.shape[0] for book in codebooks], device=codes.device)
    wrong = (codes < 0) | (codes >= sizes)
    if bool(wrong.any()):
        row, level = wrong.nonzero()[0].tolist()
        raise InvalidValueError(
            f"rq_decode: codes of level {level} must be in [0, {sizes[level]}), got {codes[row, level]} in row {row}"
        )


def _remember(ctx: Any, inputs: tuple[Tensor, list[Tensor]], output: Tensor) -> None:
    codes, books = inputs
    ctx.save_for_backward(codes)
    ctx.kinds = [(book.shape[0], book.dtype) for book in books]


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, list[Tensor]]:
    (codes,) = ctx.saved_tensors
    return None, [
        torch.ops.aten.embedding_dense_backward(gradient, column.long(), size, -1, False).to(dtype)
        for column, (size, dtype) in zip(codes.unbind(1), ctx.kinds, strict=True)
    ]


_op = define(
    "rq_decode(Tensor codes, Tensor[] codebooks) -> Tensor",
    kernels={"cpu": _cpu, "cuda": _card},
    twin=_twin,
    fake=lambda codes, codebooks: codebooks[0].new_empty((len(codes), codebooks[0].shape[1]), dtype=torch.float32),
    check=_check,
)
differentiable("rq_decode", _backward, _remember)

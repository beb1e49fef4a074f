"""Codebooks on a card, as the searches for nearest codes read them (``csrc/cuda/rq_product.cuh``)."""

from __future__ import annotations

import ctypes
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.ops import _cuda

MOST_LEVELS = 256
_BLOCK_ROWS, _BLOCK_THREADS = 128, 128
_MOST_RESIDENT = 128  # columns of rows that shared memory holds as a whole
_SLAB_BYTES = 2 * _BLOCK_ROWS * (64 + 8) * 2  # two slabs of 64 columns
_LIST_BYTES = _BLOCK_ROWS * (16 * (4 + 2) + 4 * 4 + 2)  # Lists of rq_encode.cuh
MOST_BLOCKS = 1024  # more rows are taken one after the other
_SCORE_BYTES = 256 << 20  # of scores of beams, on their way from the products to the selection
_SPARE = 64  # entries of a row's list beside its beams
ELEMENTS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class _Levels(ctypes.Structure):
    """``rq::Levels`` of ``csrc/cuda/rq_product.cuh``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("books", "rounded", "starts", "half_norms", "centres", "bounds")),
        ("first", ctypes.c_longlong * (MOST_LEVELS + 1)),
        *((name, ctypes.c_int) for name in ("num_levels", "depth", "padded")),
    )


class _Beams(ctypes.Structure):
    """``rq::Beams`` of ``csrc/cuda/rq_beams.cuh``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "own", "exact", "halves", "errors", "codes")),
        *((name, ctypes.c_void_p) for name in ("listed", "alive")),
        *((name, ctypes.c_int) for name in ("num_beams", "rows", "most_codes", "capacity")),
    )


@dataclass(frozen=True)
class CardLevels:
    """A structure for the kernels, and the tensors that it points to."""

    held: _Levels
    tensors: tuple[Tensor, ...]
    sizes: list[int]
    padded: int

    def staged(self, blocks: int) -> Tensor | None:
        """As ``staged_rows``."""
        return staged_rows(self.tensors[0], blocks, self.padded)


def tile_bytes(padded: int) -> int:
    """Bytes of shared memory that products of rows of so many columns take."""
    whole = padded <= _MOST_RESIDENT
    return _SLAB_BYTES + (_BLOCK_ROWS * (padded + 8) * 2 if whole else _SLAB_BYTES)


def staged_rows(like: Tensor, blocks: int, padded: int) -> Tensor | None:
    """Where blocks keep their rows as bfloat16, if shared memory does not."""
    return None if padded <= _MOST_RESIDENT else like.new_empty((blocks, _BLOCK_ROWS, padded), dtype=torch.int16)


def as_read(op: str, codebooks: list[Tensor], *, first_of_equals: bool) -> CardLevels:
    """The codebooks end to end, rounded and bounded, in three launches at most.

    Args:
        op: for messages.
        codebooks: float ``[K_l, D]`` of at most ``MOST_LEVELS`` levels.
        first_of_equals: only the lowest of equal codes may win.

    Raises:
        UnsupportedError: more levels.
    """
    if len(codebooks) > MOST_LEVELS:
        raise UnsupportedError(
            f"{op}: codebooks must have at most {MOST_LEVELS} levels on a card, got {len(codebooks)}"
        )
    books = torch.cat([book.float() for book in codebooks])
    codes, depth, count = *books.shape, len(codebooks)
    padded = -(-depth // 16) * 16
    rounded = books.new_empty((codes, padded), dtype=torch.int16)
    starts, half_norms = books.new_empty(codes), books.new_empty(codes, dtype=torch.float64)
    centres, hashes = books.new_empty((count, depth)), books.new_empty(codes, dtype=torch.int64)
    bounds = books.new_zeros((count, 4), dtype=torch.int32)
    tensors = (books, rounded, starts, half_norms, centres, bounds)
    sizes = [len(book) for book in codebooks]
    firsts = (ctypes.c_longlong * (MOST_LEVELS + 1))(*itertools.accumulate(sizes, initial=0))
    held = _Levels(*(tensor.data_ptr() for tensor in tensors), firsts, count, depth, padded)
    _launch("rq_encode_centres", -(-depth // _BLOCK_THREADS), 0, (held, centres), count)
    made = (held, rounded, starts, half_norms, bounds, hashes)
    _launch("rq_encode_codes", -(-codes * 16 // _BLOCK_THREADS), 0, made)
    if first_of_equals:
        _launch("rq_encode_equals", -(-codes // _BLOCK_THREADS), 0, (held, hashes, starts))
    return CardLevels(held, tensors, sizes, padded)


def encode(x: Tensor, levels: CardLevels) -> Tensor:
    """int32 ``[N, L]``: the nearest code of every row level after level; -1 throughout a row that has no codes."""
    x = x.contiguous()
    codes = x.new_empty((len(x), len(levels.sizes)), dtype=torch.int32)
    blocks = min(-(-len(x) // _BLOCK_ROWS), MOST_BLOCKS)
    arguments = (levels.held, x, _cuda.int64(len(x)), codes, levels.staged(blocks))
    shared = tile_bytes(levels.padded) + _LIST_BYTES
    _launch(f"rq_encode_{ELEMENTS[x.dtype]}", blocks, shared, arguments)
    return codes


def encode_beams(x: Tensor, levels: CardLevels, num_beams: int) -> Tensor:
    """As ``encode``, with ``num_beams`` partial codes of every row kept from level to level.

    Memory: a score of 8 bytes per beam and code, of the rows that blocks work on at once: 256 MiB, or what one block
    needs if that is more.
    """
    x = x.contiguous()
    codes = x.new_empty((len(x), len(levels.sizes)), dtype=torch.int32)
    kept = min(num_beams, math.prod(levels.sizes))
    rows, most_codes = max(1, _BLOCK_ROWS // kept), max(levels.sizes)
    beams = rows * kept
    blocks = min(-(-len(x) // rows), MOST_BLOCKS, max(1, _SCORE_BYTES // (8 * beams * most_codes)))
    capacity = kept + _SPARE
    parts = (
        x.new_empty((blocks, beams * most_codes), dtype=torch.float64),
        x.new_empty((blocks, beams), dtype=torch.float64),
        x.new_empty((blocks, _BLOCK_THREADS // 32, capacity), dtype=torch.float64),
        *(x.new_empty((blocks, beams), dtype=torch.float32) for _ in range(2)),
        x.new_empty((blocks, 2, beams, len(levels.sizes)), dtype=torch.int32),
        x.new_empty((blocks, _BLOCK_THREADS // 32, capacity), dtype=torch.int32),
        x.new_empty((blocks, rows), dtype=torch.int32),
    )
    held = _Beams(*(part.data_ptr() for part in parts), kept, rows, most_codes, capacity)
    arguments = (levels.held, x, _cuda.int64(len(x)), codes, levels.staged(blocks), held)
    _launch(f"rq_beams_{ELEMENTS[x.dtype]}", blocks, tile_bytes(levels.padded), arguments)
    return codes


def _launch(kernel: str, blocks: int, shared: int, arguments: _cuda.Arguments, columns: int = 1) -> None:
    source = "rq_beams" if kernel.startswith("rq_beams") else "rq_encode"
    _cuda.launch(source, kernel, (blocks, columns, 1), (_BLOCK_THREADS, 1, 1), shared, arguments)

"""``completable_codes`` on a card: ``csrc/cuda/completable_codes.cuh``. Nothing is read back."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genrec_fast.ops import _cuda
from genrec_fast.ops._cuda_code_sums import fill_bases

_THREADS = 256  # of a block
_STAGED_WORDS = 8192  # of 32 bits, in a block's shared memory at most
_MOST_ROWS = 64  # of a block

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int


class _CompletableCodes(ctypes.Structure):
    """``CompletableCodes`` of the source."""

    _fields_ = (
        *((name, _POINTER) for name in ("written", "item_codes", "bases", "allowed", "exclude_offsets", "exclude")),
        ("bits", _POINTER),
        *((name, _LONG) for name in ("allowed_stride", "rows", "rows_of_user", "num_items", "words")),
        *((name, _INT) for name in ("num_levels", "block_rows", "staged")),
    )


def completable_codes(
    written: Tensor,
    item_codes: Tensor,
    codebook_sizes: list[int],
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> Tensor:
    """See ``ops.completable_codes``. Memory: a bit a code beside the answer."""
    written, item_codes = written.contiguous(), item_codes.contiguous()
    allowed, exclude_ids = (None if part is None else part.contiguous() for part in (allowed, exclude_ids))
    (count, beams, levels), num_items = written.shape, item_codes.shape[0]
    width, rows = sum(codebook_sizes), count * beams
    words = -(-width // 32)
    codes = written.new_empty((count, beams, width), dtype=torch.bool)
    bits, bases = written.new_zeros(rows, words), written.new_empty(levels + 1)
    fill_bases(bases, codebook_sizes)
    staged = words <= _STAGED_WORDS
    block_rows = min(_MOST_ROWS, _STAGED_WORDS // words) if staged else _MOST_ROWS
    search = _CompletableCodes(
        *(part.data_ptr() for part in (written, item_codes, bases)),
        *(None if part is None else part.data_ptr() for part in (allowed, exclude_offsets, exclude_ids)),
        *(bits.data_ptr(), num_items if allowed is not None and len(allowed) > 1 else 0),
        *(rows, beams, num_items, words, levels, block_rows, staged),
    )
    name = "uint8" if item_codes.dtype == torch.uint8 else "int32"
    blocks = -(-num_items // _THREADS) * -(-rows // block_rows)
    shared = 4 * block_rows * words if staged else 0
    _launch(f"completable_codes_mark_{name}", blocks, shared, (search, written))
    numbers = (_cuda.int64(words), _cuda.int64(rows), _cuda.int64(width))
    _launch("completable_codes_spread", -(-rows * width // _THREADS), 0, (bits, *numbers, codes))
    return codes


def _launch(kernel: str, blocks: int, shared: int, arguments: _cuda.Arguments) -> None:
    _cuda.launch("completable_codes", kernel, (blocks, 1, 1), (_THREADS, 1, 1), shared, arguments)

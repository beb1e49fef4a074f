"""Codebooks and codes to and from faiss's ResidualQuantizer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_fast.base.checks import check_integers
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError, install_hint
from genrec_fast.tokenizers.codes import check_codebook_sizes, check_codebooks, check_item_codes

_MOST_BITS = 16  # of a level: 65,536 codes
_ROWS = 1 << 18  # packed at a time


def from_faiss(quantizer: Any) -> list[Tensor]:
    """Codebooks of a trained ``faiss.ResidualQuantizer``: float32 ``[K_l, D]`` per level, for ``ops.rq_encode``.

    ``ops.rq_encode(x, from_faiss(rq))`` gives the codes of ``rq`` with ``max_beam_size`` 1, up to ties in its rounding.
    An ``IndexResidualQuantizer`` has it as ``.rq``.

    Raises:
        InvalidTypeError: another object.
        InvalidValueError: not trained.
        UnsupportedError: faiss is not installed.
    """
    faiss = _faiss("from_faiss")
    if not isinstance(quantizer, faiss.ResidualQuantizer):
        raise InvalidTypeError(
            f"from_faiss: quantizer must be a faiss.ResidualQuantizer, got {type(quantizer).__name__}"
        )
    offsets = faiss.vector_to_array(quantizer.codebook_offsets).tolist()
    values = faiss.vector_to_array(quantizer.codebooks)
    if not quantizer.is_trained or values.size != offsets[-1] * quantizer.d or values.size == 0:
        raise InvalidValueError("from_faiss: quantizer must be trained, got one without codebooks")
    table = torch.from_numpy(values.reshape(-1, quantizer.d).astype(np.float32))
    return [table[low:high].clone() for low, high in itertools.pairwise(offsets)]


def to_faiss(codebooks: Sequence[Tensor]) -> Any:
    """A trained ``faiss.ResidualQuantizer`` of these codebooks, encoding greedily (``max_beam_size`` 1).

    Args:
        codebooks: float ``[K_l, D]`` per level; K_l a power of two from 2 to 65,536: faiss packs codes by bits.

    Raises:
        InvalidTypeError: not float tensors.
        InvalidValueError: a wrong shape or size, or values that are not finite.
        UnsupportedError: faiss is not installed.

    Notes:
        A tokenizer that scales its features (``normalize``) hands faiss only its codebooks: give faiss the scaled
        features then (``tokenizer.targets(features)``).

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import from_faiss, to_faiss
        >>> rq = to_faiss([torch.randn(4, 3), torch.randn(8, 3)])
        >>> [list(book.shape) for book in from_faiss(rq)]
        [[4, 3], [8, 3]]
    """
    faiss = _faiss("to_faiss")
    check_codebooks("to_faiss", codebooks)
    bits = _bits("to_faiss", tuple(book.shape[0] for book in codebooks), power=True)
    nbits = faiss.UInt64Vector()
    faiss.copy_array_to_vector(np.array(bits, dtype=np.uint64), nbits)
    quantizer = faiss.ResidualQuantizer(codebooks[0].shape[1], nbits)
    table = torch.cat([book.detach().to("cpu", torch.float32) for book in codebooks])
    faiss.copy_array_to_vector(np.ascontiguousarray(table.numpy()).reshape(-1), quantizer.codebooks)
    quantizer.max_beam_size = 1
    quantizer.is_trained = True
    quantizer.compute_codebook_tables()
    return quantizer


def pack_codes(codes: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """Codes as faiss stores them: each in as few bits as its codebook needs, level after level, low bit first.

    Args:
        codes: integer ``[m, L]``.
        codebook_sizes: L sizes, each from 2 to 65,536; one that is no power of two takes the bits of the next.

    Returns:
        uint8 ``[m, (sum of bits + 7) // 8]``, what ``ResidualQuantizer.compute_codes`` gives and ``decode`` reads.

    Raises:
        InvalidTypeError: codes are not integers.
        InvalidValueError: a wrong shape or size, or a code outside its codebook.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import pack_codes, unpack_codes
        >>> packed = pack_codes(torch.tensor([[3, 1, 200]]), (4, 4, 256))
        >>> packed.tolist()
        [[135, 12]]
        >>> unpack_codes(packed, (4, 4, 256)).tolist()
        [[3, 1, 200]]
    """
    sizes = check_codebook_sizes("pack_codes", codebook_sizes)
    bits = _bits("pack_codes", sizes)
    _check_codes("pack_codes", codes, sizes)
    width = (sum(bits) + 7) // 8
    out = np.empty((codes.shape[0], width), dtype=np.uint8)
    rows = codes.detach().resolve_neg().to("cpu", torch.int64).numpy()
    for low in range(0, len(rows), _ROWS):
        block = rows[low : low + _ROWS]
        ones = [(block[:, level, None] >> np.arange(count)) & 1 for level, count in enumerate(bits)]
        out[low : low + _ROWS] = np.packbits(np.concatenate(ones, 1).astype(np.uint8), axis=1, bitorder="little")
    return torch.from_numpy(out)


def unpack_codes(packed: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """The other way: uint8 ``[m, bytes]`` -> int32 ``[m, L]``.

    Bytes after the last level are not read: with a ``search_type`` that keeps norms, faiss puts them there.

    Raises:
        InvalidTypeError: not uint8.
        InvalidValueError: a wrong shape or size, or a code outside a codebook whose size is no power of two.
    """
    sizes = check_codebook_sizes("unpack_codes", codebook_sizes)
    bits = _bits("unpack_codes", sizes)
    width = (sum(bits) + 7) // 8
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8:
        got = packed.dtype if isinstance(packed, Tensor) else type(packed).__name__
        raise InvalidTypeError(f"unpack_codes: packed must be uint8 [m, {width}], got {got}")
    if packed.is_nested or packed.layout != torch.strided or packed.is_meta:
        raise InvalidTypeError(f"unpack_codes: packed must be a dense tensor with data, got {packed.layout}")
    packed = packed.resolve_neg()
    if packed.dim() != 2 or packed.shape[1] < width:
        raise InvalidValueError(f"unpack_codes: packed must be [m, {width}], got {list(packed.shape)}")
    out = np.empty((packed.shape[0], len(bits)), dtype=np.int32)
    rows = packed.cpu().numpy()[:, :width]
    for low in range(0, len(rows), _ROWS):
        ones = np.unpackbits(rows[low : low + _ROWS], axis=1, bitorder="little").astype(np.int32)
        place = 0
        for level, count in enumerate(bits):
            out[low : low + _ROWS, level] = ones[:, place : place + count] @ (1 << np.arange(count, dtype=np.int32))
            place += count
    codes = torch.from_numpy(out)
    _check_codes("unpack_codes", codes, sizes)
    return codes


def _check_codes(op: str, codes: Tensor, sizes: tuple[int, ...]) -> None:
    if check_integers(op, "codes", codes, "[m, L]").shape != (0, len(sizes)):  # no rows are fine here
        check_item_codes(op, codes, sizes)


def _bits(op: str, sizes: tuple[int, ...], *, power: bool = False) -> list[int]:
    rule = "powers of two from 2 to 65536" if power else "integers from 2 to 65536"
    for size in sizes or (0,):
        if not 2 <= size <= 1 << _MOST_BITS or (power and size & (size - 1)):
            raise InvalidValueError(f"{op}: codebook sizes must be {rule}, one per level, got {sizes}")
    return [(size - 1).bit_length() for size in sizes]


def _faiss(op: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UnsupportedError(f"{op}: needs faiss, which is not installed; {install_hint('tokenize')}") from error
    return faiss

"""Vectors -> codes of a residual quantizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, choice, whole_number
from genrec_fast.base.errors import InvalidValueError, UnsupportedError, door
from genrec_fast.ops import _rq_levels
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate, require_codebooks, require_finite, require_matrix
from genrec_fast.ops.reference.rq_encode import rq_encode as _twin

MAX_CODES = 65536  # per level: the trie's limit
PRECISIONS = ("float32", "bfloat16")


@door
def rq_encode(
    x: Tensor, codebooks: Sequence[Tensor] | Tensor, *, num_beams: int = 1, precision: str = "float32"
) -> Tensor:
    """The codes of vectors: at each level the code nearest to what the levels before left over.

    ``r = x; for l in range(L): code[l] = argmin_k(|c_lk|^2 / 2 - r c_lk); r = r - c_l,code[l]``

    Args:
        x: float32, bfloat16 or float16 ``[N, D]``, finite.
        codebooks: L float32, bfloat16 or float16 tensors ``[K_l, D]``, K_l in [1, 65536], finite, or one
            ``[L, K, D]``.
        num_beams: W: how many partial codes of every vector are kept from level to level. 1 is greedy. With more, a
            level keeps the W of all (beam, code) pairs that leave the shortest residual, and the best of the last level
            is given: a shorter residual, mostly, at more cost.
        precision: of the products that shortlist codes, "float32" or "bfloat16". The codes are the same by
            construction: every code that could win within the proven rounding error is scored again. "bfloat16" is the
            faster one on processors that multiply bfloat16 (avx512_bf16), and is read as "float32" on others. A card's
            products are bfloat16 always.

    Returns:
        int32 ``[N, L]``.

    Raises:
        InvalidTypeError: x or a codebook is not a float tensor of these dtypes.
        InvalidValueError: a shape does not fit, K_l or num_beams or precision is out of range, a row of x or of a
            codebook is not finite (naming it), or a residual leaves float32. On a card nothing that only a value shows
            raises: all codes of such a row are -1, of every row where a codebook is not finite.
        UnsupportedError: num_beams times the largest codebook is above 2^24; more than 256 levels on a card.

    Notes:
        Scores are defined in float64 (products of float32 are exact there) with sums in 16 lanes, residuals in float32;
        ties go to the lower code. So the result does not depend on the instruction set, the precision, the number of
        threads, or how the rows are cut into calls. N * D * sum(K_l) multiply-adds, fused with the search for the
        best: no score leaves the cache. Memory: a packed copy of the codebooks; on a card with beams also up to 256 MiB
        of scores. Not differentiable.

    Source:
        Residual quantization: Chen, Guan, Wang, "Approximate nearest neighbor search by residual vector quantization",
        Sensors 2010. Beams: Babenko and Lempitsky, "Additive quantization", CVPR 2014, section 3, as in faiss. The
        margin test is ours.

    Example:
        >>> import torch, genrec_fast as gf
        >>> books = [torch.tensor([[0.0, 0.0], [4.0, 4.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])]
        >>> gf.ops.rq_encode(torch.tensor([[4.0, 5.0], [1.0, 0.2]]), books).tolist()
        [[1, 2], [0, 1]]
    """
    require_matrix("rq_encode", "x", x, "[N, D]")
    if x.shape[1] < 1:
        raise InvalidValueError(f"rq_encode: x must be [N, D] with D at least 1, got {list(x.shape)}")
    books = require_codebooks("rq_encode", codebooks, x.device)
    for level, book in enumerate(books):
        if book.shape[1] != x.shape[1] or book.shape[0] > MAX_CODES:
            raise InvalidValueError(
                f"rq_encode: codebooks[{level}] must be [K, {x.shape[1]}] with K in [1, {MAX_CODES}], "
                f"got {list(book.shape)}"
            )
    num_beams = whole_number("rq_encode", "num_beams", num_beams, 1, INT64[1])
    choice("rq_encode", "precision", precision, PRECISIONS)
    if num_beams * max(len(book) for book in books) > 1 << 24:
        raise UnsupportedError(
            f"rq_encode: num_beams times the largest codebook must be at most 2^24, got {num_beams} beams"
        )
    out: Tensor = _op(x.detach(), [book.detach().float() for book in books], num_beams, precision)
    return out


def _cpu(x: Tensor, codebooks: list[Tensor], num_beams: int, precision: str) -> Tensor:
    codes = allocate("rq_encode", "codes", x.shape[0], len(codebooks), dtype=torch.int32)
    core.rq_encode(
        x=x,
        codebooks=codebooks,
        num_beams=num_beams,
        bfloat16=precision == "bfloat16",
        codes=codes,
        num_threads=torch.get_num_threads(),
    )
    return codes


def _card(x: Tensor, codebooks: list[Tensor], num_beams: int, precision: str) -> Tensor:
    # With beams, equal codes are a beam each.
    levels = _rq_levels.as_read("rq_encode", codebooks, first_of_equals=num_beams == 1)
    return _rq_levels.encode(x, levels) if num_beams == 1 else _rq_levels.encode_beams(x, levels, num_beams)


def _check(x: Tensor, codebooks: list[Tensor]) -> None:
    for level, book in enumerate(codebooks):
        require_finite("rq_encode", f"codebooks[{level}]", book)
    require_finite("rq_encode", "x", x)


_op = define(
    "rq_encode(Tensor x, Tensor[] codebooks, int num_beams, str precision) -> Tensor",
    kernels={"cpu": _cpu, "cuda": _card},
    twin=_twin,
    fake=lambda x, codebooks: x.new_empty((x.shape[0], len(codebooks)), dtype=torch.int32),
    check=_check,
)

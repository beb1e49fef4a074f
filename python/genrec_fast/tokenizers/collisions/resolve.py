"""Carries out the setting ``dedup`` of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.tokenizers.codes import check_codebook_sizes, check_codebooks, check_item_codes
from genrec_fast.tokenizers.collisions.dedup import CodebookDedup, check_dedup, resolve_by_level
from genrec_fast.tokenizers.collisions.reassign import Reassign, WhenFull, reassign
from genrec_fast.tokenizers.collisions.resolution import Resolved


def resolve(
    item_codes: Tensor,
    codebook_sizes: tuple[int, ...],
    dedup: CodebookDedup,
    *,
    vectors: Tensor | None = None,
    codebooks: Sequence[Tensor] | None = None,
    when_full: WhenFull = "other_prefix",
) -> Resolved:
    """Tells items of equal codes apart and reports what was done.

    Args:
        item_codes: integer ``[N, L]``.
        codebook_sizes: L sizes.
        dedup: "rank", "rank_if_shared", "colliding_only" or "none" (``add_dedup_level``); "nearest_free" or "sinkhorn"
            (``reassign``).
        vectors: float ``[N, D]``, for reassignment: what was coded.
        codebooks: float ``[K_l, D]`` per level, for reassignment.
        when_full: of ``reassign``.

    Raises:
        InvalidTypeError: a wrong dtype.
        InvalidValueError: a wrong shape, a code outside its codebook, an unknown dedup, or one that needs vectors and
            codebooks that are not given.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import resolve
        >>> codes, sizes, what = resolve(torch.tensor([[3], [3], [1]]), (4,), "rank")
        >>> print(what)
        rank: 1 groups of equal codes, the largest of 2; collision rate 0.3333 -> 0.0000; 2 items touched; a level of \
2 codes added
    """
    check_dedup("resolve", dedup, codebooks=True)
    codebook_sizes = check_codebook_sizes("resolve", codebook_sizes)
    if dedup not in get_args(Reassign):
        check_item_codes("resolve", item_codes, codebook_sizes)
        return resolve_by_level(item_codes, codebook_sizes, dedup)  # type: ignore[arg-type]
    if vectors is None or codebooks is None:
        raise InvalidValueError(f"resolve: vectors and codebooks must be given for {dedup}, got None")
    check_codebooks("resolve", codebooks)
    if tuple(codebook_sizes) != tuple(book.shape[0] for book in codebooks):
        raise InvalidValueError(f"resolve: codebook_sizes must be those of the codebooks, got {codebook_sizes}")
    return reassign(item_codes, vectors, codebooks, method=dedup, when_full=when_full)  # type: ignore[arg-type]

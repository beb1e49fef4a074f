"""Which codes a partly written semantic ID may still get: a trie in every order at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import require_room, require_tensors
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda, _cuda_completable_codes
from genrec_fast.ops._code_sums import check_codes, require_item_codes
from genrec_fast.ops._filters import require_allowed, require_exclude
from genrec_fast.ops._registry import core, define
from genrec_fast.ops.reference.completable_codes import completable_codes as _twin


@door
def completable_codes(
    written: Tensor,
    item_codes: Tensor,
    *,
    codebook_sizes: Sequence[int],
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
) -> Tensor:
    """For every partly written semantic ID the codes of its masked levels with which it is still some item's.

    ::

        codes[b, w, base_l + c] = written[b, w, l] == -1 and some item n that b may find has item_codes[n, l] == c
                                  and item_codes[n, j] == written[b, w, j] wherever that is not -1

    base_l: the sizes before l added up. A search that writes such codes alone, level after level in any order, ends at
    an item: it has no dead ends.

    Args:
        written: int32 ``[B, W, L]``: codes, and -1 where a level is masked.
        item_codes: uint8 or int32 ``[N, L]``; N may be 0.
        codebook_sizes: L sizes; the codes of level l are in ``[0, codebook_sizes[l])``.
        allowed: bool ``[N]``, ``[1, N]`` or ``[B, N]``: items that may be found; ``None``: all.
        exclude: int64 Jagged of B rows: item ids in ``[0, N)``, in any order, that a user does not find.

    Returns:
        bool ``[B, W, V]``, V the sum of the sizes; no code where nothing is masked, or no item fits.

    Raises:
        InvalidTypeError: an argument of the wrong kind.
        InvalidValueError: a shape, a device or sizes that do not fit, a code outside its codebook (where there are
            rows), or an id outside the items.

    Notes:
        N for each level that some row has written (items are put in the order of their code), then for each row the
        items of its rarest code. A row without a code looks at all N L codes, but once for all users that have the same
        filter. Memory: 4 N bytes for each such level. A card compares every item with every row, a bit a code of
        memory, and raises nothing that a value shows: a row or a user with a wrong one gets no code. Equal bits on
        every instruction set and number of threads.

    Source: ours.

    Example:
        >>> import torch, genrec_fast as gf
        >>> codes = torch.tensor([[0, 1], [1, 0], [1, 1]], dtype=torch.uint8)
        >>> written = torch.tensor([[[-1, 0], [-1, 1], [1, -1]]], dtype=torch.int32)
        >>> gf.ops.completable_codes(written, codes, codebook_sizes=(2, 2)).int().tolist()
        [[[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]]
    """
    op = "completable_codes"
    require_tensors(op, None, written=written)
    if written.dtype != torch.int32:
        raise InvalidTypeError(f"{op}: written must be int32 [B, W, L], got {written.dtype}")
    sizes = require_item_codes(op, item_codes, codebook_sizes, written.device)
    if written.dim() != 3 or written.shape[2] != len(sizes):
        raise InvalidValueError(f"{op}: written must be [B, W, {len(sizes)}], got {list(written.shape)}")
    count, num_items, device = written.shape[0], item_codes.shape[0], written.device
    allowed = require_allowed(op, allowed, count, num_items, device)
    ids, offsets = require_exclude(op, exclude, count, num_items, device)
    # The way through the dispatcher costs 5 us: plain CPU tensors take the direct one.
    direct = type(written) is type(item_codes) is Tensor and written.is_cpu and not torch.compiler.is_compiling()
    direct = direct and not _cuda.emulates()
    found: Tensor = (_cpu if direct else _op)(written, item_codes, sizes, allowed, ids, offsets)
    return found


def _cpu(
    written: Tensor,
    item_codes: Tensor,
    codebook_sizes: list[int],
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> Tensor:
    shape = (*written.shape[:2], sum(codebook_sizes))
    require_room("completable_codes", "codes", shape, 1)
    codes = torch.empty(shape, dtype=torch.bool)
    core.completable_codes(
        item_codes=item_codes,
        codebook_sizes=codebook_sizes,
        written=written,
        allowed=allowed,
        exclude_ids=exclude_ids,
        exclude_offsets=exclude_offsets,
        codes=codes,
        num_threads=torch.get_num_threads(),
    )
    return codes


def _check(written: Tensor, item_codes: Tensor, codebook_sizes: list[int]) -> None:
    wrong = (written < -1) | (written >= torch.tensor(codebook_sizes, device=written.device))
    if bool(wrong.any()):
        user, beam, level = wrong.nonzero()[0].tolist()
        raise InvalidValueError(
            f"completable_codes: written must be in [-1, {codebook_sizes[level]}) at level {level}, "
            f"got {int(written[user, beam, level])} for user {user}"
        )
    if written.shape[0] * written.shape[1]:
        check_codes("completable_codes", item_codes, codebook_sizes)


def _fake(written: Tensor, codebook_sizes: list[int]) -> Tensor:
    return written.new_empty((written.shape[0], written.shape[1], sum(codebook_sizes)), dtype=torch.bool)


_op = define(
    "completable_codes(Tensor written, Tensor item_codes, int[] codebook_sizes, Tensor? allowed,"
    " Tensor? exclude_ids, Tensor? exclude_offsets) -> Tensor",
    kernels={"cpu": _cpu, "cuda": _cuda_completable_codes.completable_codes},
    twin=_twin,
    fake=_fake,
    check=_check,
)

"""The k items whose codes have the highest sum of scores: every item is looked at, none is multiplied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, whole_number
from genrec_fast.base.errors import door
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda, _cuda_code_sums
from genrec_fast.ops._code_sums import check_codes, check_logprobs, require_code_sums
from genrec_fast.ops._filters import lengthened, lists, require_allowed, require_exclude
from genrec_fast.ops._registry import core, define
from genrec_fast.ops.reference.topk_code_sums import topk_code_sums as _twin


@door
def topk_code_sums(
    logprobs: Tensor,
    item_codes: Tensor,
    k: int,
    *,
    codebook_sizes: Sequence[int],
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
) -> tuple[Tensor, Tensor]:
    """For every user the k items with the highest score, best first.

    ``score(b, n) = sum over levels l of logprobs[b, base_l + item_codes[n, l]]``, base_l the sizes before l added up.

    Args:
        logprobs: float32 ``[B, V]``, V the sum of the sizes: a score for each code, the levels side by side; -inf hides
            the items that have the code. B may be 0. Any scores will do, log-probabilities (natural log) or others.
        item_codes: uint8 or int32 ``[N, L]``; N may be 0. Bytes are read fastest.
        k: at least 1; may exceed N.
        codebook_sizes: L sizes; the codes of level l are in ``[0, codebook_sizes[l])``.
        allowed: bool ``[N]``, ``[1, N]`` or ``[B, N]``: items that may be found; ``None``: all.
        exclude: int64 Jagged of B rows: item ids in ``[0, N)``, in any order, that a user does not find.

    Returns:
        scores float32 ``[B, k]``, -inf behind the last result, and ids int64 ``[B, k]``, -1 behind the last.

    Raises:
        InvalidTypeError: an argument of the wrong kind.
        InvalidValueError: a shape, a device or sizes that do not fit, a score that is NaN or infinity (naming its row),
            a code outside its codebook (where there are users), or an id outside the items. A card cannot raise for
            the last three: the lists of such a user, or of all where a code is wrong, are scores NaN and ids -1.

    Notes:
        Sums are float32, level by level; ties go to the lower id; equal bits on every instruction set and number of
        threads. At most B N L additions, sixteen users at a time: an item is left as soon as the best that its other
        levels could add does not lift it to the k-th best so far. Memory: 64 V bytes and about 2 k + 16 entries a user
        for each thread, no matrix of scores. A score of -inf is not found. Not differentiable. On a
        card every item is scored, for four users at once, in two launches.

    Source:
        Jegou et al., "Product quantization for nearest neighbor search", PAMI 2011, section 3 (sums from tables); the
        bound on the levels that are left is ours.

    Example:
        >>> import torch, genrec_fast as gf
        >>> codes = torch.tensor([[0, 1], [1, 0], [1, 1]], dtype=torch.uint8)
        >>> logprobs = torch.tensor([[-1.0, -2.0, -3.0, -0.5]])
        >>> scores, ids = gf.ops.topk_code_sums(logprobs, codes, 2, codebook_sizes=(2, 2))
        >>> scores.tolist(), ids.tolist()
        ([[-1.5, -2.5]], [[0, 2]])
    """
    op = "topk_code_sums"
    sizes = require_code_sums(op, logprobs, item_codes, codebook_sizes)
    count, num_items, device = logprobs.shape[0], item_codes.shape[0], logprobs.device
    k = whole_number(op, "k", k, 1, INT64[1])
    allowed = require_allowed(op, allowed, count, num_items, device)
    ids, offsets = require_exclude(op, exclude, count, num_items, device)
    # The way through the dispatcher costs 5 us: plain CPU tensors take the direct one.
    direct = (
        type(logprobs) is type(item_codes) is Tensor
        and logprobs.is_cpu
        and not (torch.compiler.is_compiling() or _cuda.emulates())
    )
    scores, found = (_cpu if direct else _op)(logprobs.detach(), item_codes, k, sizes, allowed, ids, offsets)
    return scores, found


def _cpu(
    logprobs: Tensor,
    item_codes: Tensor,
    k: int,
    codebook_sizes: list[int],
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    scores, ids = lists("topk_code_sums", logprobs.shape[0], item_codes.shape[0], k)  # before a look at so many users
    core.topk_code_sums(
        logprobs=logprobs,
        item_codes=item_codes,
        codebook_sizes=codebook_sizes,
        allowed=allowed,
        exclude_ids=exclude_ids,
        exclude_offsets=exclude_offsets,
        scores=scores,
        ids=ids,
        num_threads=torch.get_num_threads(),
    )
    return lengthened(scores, ids, k)


def _check(logprobs: Tensor, item_codes: Tensor, codebook_sizes: list[int]) -> None:
    check_logprobs("topk_code_sums", logprobs)
    check_codes("topk_code_sums", item_codes, codebook_sizes)


def _fake(logprobs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (logprobs.shape[0], k)
    return logprobs.new_empty(shape, dtype=torch.float32), logprobs.new_empty(shape, dtype=torch.int64)


_op = define(
    "topk_code_sums(Tensor logprobs, Tensor item_codes, int k, int[] codebook_sizes, Tensor? allowed,"
    " Tensor? exclude_ids, Tensor? exclude_offsets) -> (Tensor scores, Tensor ids)",
    kernels={"cpu": _cpu, "cuda": _cuda_code_sums.topk_code_sums},
    twin=_twin,
    fake=_fake,
    check=_check,
)

"""The k largest inner products with the rows of a table: product and selection in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, require_tensors, whole_number
from genrec_fast.base.errors import InvalidValueError, door
from genrec_fast.base.jagged import Jagged
from genrec_fast.ops import _cuda, _cuda_topk
from genrec_fast.ops._filters import lengthened, lists, require_allowed, require_exclude
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import require_finite, require_matrix
from genrec_fast.ops.reference.topk_inner_product import topk_inner_product as _twin

_MOST_ITEMS = (1 << 31) - 1


@door
def topk_inner_product(
    queries: Tensor,
    table: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
    exclude: Jagged | None = None,
) -> tuple[Tensor, Tensor]:
    """For every query the k items of the table with the highest score, best first.

    ``score(b, n) = float32(sum_d queries[b, d] * table[n, d] + bias[n])``

    Args:
        queries: float32, bfloat16 or float16 ``[B, D]``, finite; B may be 0, D is at least 1.
        table: the same kinds of float ``[N, D]``, finite; N may be 0. Anything but contiguous float32 is copied.
        k: at least 1; may exceed N.
        bias: float32 ``[N]``, finite, added to each item's score; ``None``: 0.
        allowed: bool ``[N]``, ``[1, N]`` or ``[B, N]``: items that may be found; ``None``: all.
        exclude: int64 Jagged of B rows: item ids in ``[0, N)``, in any order, that a query does not find.

    Returns:
        scores float32 ``[B, k]``, -inf behind the last result, and ids int64 ``[B, k]``, -1 behind the last.

    Raises:
        InvalidTypeError: an argument of the wrong kind.
        InvalidValueError: a shape or device that does not fit, a value that is not finite (naming its row), or an id
            outside the table. On a card nothing that only a value shows raises: scores are NaN and ids -1, of the
            query that is not finite or excludes such an id, and of all where the table or the bias is not finite.

    Notes:
        The sum is float64 (products exact, 16 running lanes); ties of the float32 score go to the lower id. The kernel
        multiplies in float32, keeps a threshold per query, and scores as defined only what a bound on the rounding
        leaves: equal bits on every instruction set and number of threads. 2 B N D flops, the table read once per 512
        queries; memory: about 2 k + 64 entries per query and no matrix of scores. A score beyond float32 is infinite;
        -inf is not found. Not differentiable.

    Source:
        Johnson et al., "Billion-scale similarity search with GPUs", arXiv:1702.08734, section 5.1 (fusing selection
        into the product).

    Example:
        >>> import torch, genrec_fast as gf
        >>> table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> scores, ids = gf.ops.topk_inner_product(torch.tensor([[1.0, 3.0]]), table, 2)
        >>> scores.tolist(), ids.tolist()
        ([[8.0, 3.0]], [[2, 1]])
    """
    op = "topk_inner_product"
    # Plain CPU matrices go around the dispatcher, which costs 5 us, and are looked at once (0.5 us).
    direct = type(queries) is type(table) is Tensor and not torch.compiler.is_compiling()
    direct = direct and core.is_float_matrix(queries) and core.is_float_matrix(table) and not _cuda.emulates()
    if not direct:
        require_matrix(op, "queries", queries, "[B, D]")
        require_matrix(op, "table", table, "[N, D]", queries.device)
    count, depth = queries.shape
    num_items = table.shape[0]
    if depth < 1 or table.shape[1] != depth:
        raise InvalidValueError(
            f"{op}: queries and table must be [B, D] and [N, D] with D at least 1, "
            f"got {list(queries.shape)} and {list(table.shape)}"
        )
    if num_items > _MOST_ITEMS:
        raise InvalidValueError(f"{op}: table must have at most 2^31 - 1 rows, got {num_items}")
    k = whole_number(op, "k", k, 1, INT64[1])
    if bias is not None:
        require_tensors(op, queries.device, bias=bias)
        if bias.dtype != torch.float32 or bias.shape != (num_items,):
            raise InvalidValueError(f"{op}: bias must be float32 [{num_items}], got {bias.dtype} {list(bias.shape)}")
    allowed = require_allowed(op, allowed, count, num_items, queries.device)
    ids, offsets = require_exclude(op, exclude, count, num_items, queries.device)
    scores, found = (_cpu if direct else _op)(
        _plain(queries), _plain(table), k, None if bias is None else bias.detach(), allowed, ids, offsets
    )
    return scores, found


def _plain(matrix: Tensor) -> Tensor:
    return matrix.detach() if matrix.requires_grad else matrix


def _cpu(
    queries: Tensor,
    table: Tensor,
    k: int,
    bias: Tensor | None,
    allowed: Tensor | None,
    exclude_ids: Tensor | None,
    exclude_offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    scores, ids = lists("topk_inner_product", queries.shape[0], table.shape[0], k)  # before a look at so many queries
    if bias is not None:
        require_finite("topk_inner_product", "bias", bias[:, None])
    core.topk_inner_product(
        queries=queries if queries.dtype == torch.float32 else queries.float(),
        table=table if table.dtype == torch.float32 else table.float(),
        bias=bias,
        allowed=allowed,
        exclude_ids=exclude_ids,
        exclude_offsets=exclude_offsets,
        scores=scores,
        ids=ids,
        num_threads=torch.get_num_threads(),
    )
    return lengthened(scores, ids, k)


def _check(queries: Tensor, table: Tensor) -> None:
    require_finite("topk_inner_product", "queries", queries)
    require_finite("topk_inner_product", "table", table)


def _fake(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.int64)


_op = define(
    "topk_inner_product(Tensor queries, Tensor table, int k, Tensor? bias, Tensor? allowed, Tensor? exclude_ids,"
    " Tensor? exclude_offsets) -> (Tensor scores, Tensor ids)",
    kernels={"cpu": _cpu, "cuda": _cuda_topk.search},
    twin=_twin,
    fake=_fake,
    check=_check,
)

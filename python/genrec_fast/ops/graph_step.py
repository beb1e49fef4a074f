"""A step of a walk over a graph of items: the best neighbours of the items where each user stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, require_room, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, door
from genrec_fast.ops import _cuda, _cuda_code_sums
from genrec_fast.ops._code_sums import check_codes, check_logprobs, require_code_sums
from genrec_fast.ops._filters import lengthened
from genrec_fast.ops._registry import core, define
from genrec_fast.ops.reference.graph_step import graph_step as _twin


class GraphStep(NamedTuple):
    """Where each user stands after a step, best first.

    ``items`` int32 and ``scores`` float32 ``[B, num_beams]``; behind the last item -1 and -inf. ``num_seen`` int32
    ``[B]``: how many different items were scored; none of them that is not kept scores above the last that is.
    """

    items: Tensor
    scores: Tensor
    num_seen: Tensor


@door
def graph_step(
    logprobs: Tensor,
    item_codes: Tensor,
    neighbours: Tensor,
    items: Tensor,
    num_beams: int,
    *,
    codebook_sizes: Sequence[int],
) -> GraphStep:
    """For every user the num_beams best of the different neighbours of the items where the user stands.

    ::

        for user: candidates = set(neighbours[items[user]]);  keep the num_beams with the highest score

    with the score of ``topk_code_sums``. Where items are among their own neighbours, a walk forgets none that is better
    than what it keeps: after any number of steps it stands at the best of all that it has seen.

    Args:
        logprobs: float32 ``[B, V]``: as ``topk_code_sums``.
        item_codes: uint8 or int32 ``[N, L]``.
        neighbours: int32 ``[N, E]``, item ids; -1: none.
        items: int32 ``[B, F]``, item ids; -1: none.
        num_beams: items to keep per user, at least 1.
        codebook_sizes: L sizes.

    Returns:
        ``GraphStep``; ties go to the lower id; a score of -inf is not kept.

    Raises:
        InvalidTypeError: an argument of the wrong kind.
        InvalidValueError: a shape, a device or sizes that do not fit, a score that is NaN or infinity, an item or a
            neighbour outside ``[-1, N)``, or a code of a neighbour outside its codebook. A card cannot raise for a
            value: such a user gets items -2, which the next step refuses again, scores NaN and num_seen -1.

    Notes:
        F E look-ups a user and at most L additions for each different neighbour, which is left as soon as its other
        levels cannot lift it to the best so far. Memory: N bits for each thread; on a
        card 24 bytes for each neighbour. Equal bits on every instruction set and number of threads, and on cards. Not
        differentiable.

    Source:
        RPG (arXiv:2506.05781), section 3.3 (graph-constrained decoding).

    Example:
        >>> import torch, genrec_fast as gf
        >>> codes = torch.tensor([[0, 1], [1, 0], [1, 1]], dtype=torch.uint8)
        >>> near = torch.tensor([[0, 2], [1, 2], [2, 1]], dtype=torch.int32)
        >>> logprobs, start = torch.tensor([[-1.0, -2.0, -3.0, -0.5]]), torch.tensor([[1]], dtype=torch.int32)
        >>> gf.ops.graph_step(logprobs, codes, near, start, 1, codebook_sizes=(2, 2)).items.tolist()
        [[2]]
    """
    op = "graph_step"
    sizes = require_code_sums(op, logprobs, item_codes, codebook_sizes)
    count, num_items = logprobs.shape[0], item_codes.shape[0]
    require_tensors(op, logprobs.device, neighbours=neighbours, items=items)
    for name, value, rows, shape in (("neighbours", neighbours, num_items, "E"), ("items", items, count, "F")):
        if value.dtype != torch.int32:
            raise InvalidTypeError(f"{op}: {name} must be int32 [{rows}, {shape}], got {value.dtype}")
        if value.dim() != 2 or value.shape[0] != rows:
            raise InvalidValueError(f"{op}: {name} must be [{rows}, {shape}], got {list(value.shape)}")
    num_beams = whole_number(op, "num_beams", num_beams, 1, INT64[1])
    tensors = (logprobs, item_codes, neighbours, items)
    # The way through the dispatcher costs 5 us: plain CPU tensors take the direct one.
    plain = all(type(tensor) is Tensor for tensor in tensors)
    direct = plain and logprobs.is_cpu and not (torch.compiler.is_compiling() or _cuda.emulates())
    return GraphStep(*(_cpu if direct else _op)(logprobs.detach(), item_codes, neighbours, items, num_beams, sizes))


def _cpu(
    logprobs: Tensor,
    item_codes: Tensor,
    neighbours: Tensor,
    items: Tensor,
    num_beams: int,
    codebook_sizes: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    count = logprobs.shape[0]
    require_room("graph_step", "items", (count, num_beams), 8)  # with their scores
    most = max(1, min(num_beams, item_codes.shape[0]))  # there are no more
    reached, scores = torch.empty(count, most, dtype=torch.int32), torch.empty(count, most)
    num_seen = torch.empty(count, dtype=torch.int32)
    core.graph_step(
        logprobs=logprobs,
        item_codes=item_codes,
        codebook_sizes=codebook_sizes,
        neighbours=neighbours,
        items=items,
        reached=reached,
        scores=scores,
        num_seen=num_seen,
        num_threads=torch.get_num_threads(),
    )
    scores, reached = lengthened(scores, reached, num_beams)
    return reached, scores, num_seen


def _check(logprobs: Tensor, item_codes: Tensor, neighbours: Tensor, items: Tensor, codebook_sizes: list[int]) -> None:
    check_logprobs("graph_step", logprobs)
    for name, value in (("items", items), ("neighbours", neighbours)):
        low, high = (int(v) for v in value.aminmax()) if value.numel() else (-1, -1)
        if low < -1 or high >= item_codes.shape[0]:
            wrong = low if low < -1 else high
            raise InvalidValueError(f"graph_step: {name} must be in [-1, {item_codes.shape[0]}), got {wrong}")
    check_codes("graph_step", item_codes, codebook_sizes)


def _fake(logprobs: Tensor, num_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    count = logprobs.shape[0]
    reached = logprobs.new_empty(count, num_beams, dtype=torch.int32)
    return reached, logprobs.new_empty(count, num_beams), logprobs.new_empty(count, dtype=torch.int32)


_op = define(
    "graph_step(Tensor logprobs, Tensor item_codes, Tensor neighbours, Tensor items, int num_beams,"
    " int[] codebook_sizes) -> (Tensor reached, Tensor scores, Tensor num_seen)",
    kernels={"cpu": _cpu, "cuda": _cuda_code_sums.graph_step},
    twin=_twin,
    fake=_fake,
    check=_check,
)

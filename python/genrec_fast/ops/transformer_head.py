"""Native inference of a transformer: from hidden rows to logits of the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.checks import INT64, check_flag, whole_number
from genrec_fast.base.errors import InvalidValueError, door
from genrec_fast.ops._registry import core, define
from genrec_fast.ops._tensors import allocate
from genrec_fast.ops._transformer_call import check_call, direct
from genrec_fast.ops.reference import transformer_head as reference
from genrec_fast.ops.transformer_pack import PackedStack


@door
def transformer_head(
    stack: PackedStack, hidden: Tensor, first: int, last: int, *, log_sums: bool = True
) -> tuple[Tensor, Tensor]:
    """Logits of tokens ``[first, last)``, and the log-sum-exp over the whole vocabulary.

    Args:
        stack: one with a head.
        hidden: float32 ``[R, D]``.
        first: the first token whose logit is returned.
        last: the token behind the last one.
        log_sums: whether the sums are wanted; else only the panels of those tokens are multiplied.

    Returns:
        logits float32 ``[R, last - first]``, and float32 ``[R]`` (``[0]`` without ``log_sums``).

    Raises:
        InvalidTypeError, InvalidValueError, UnsupportedError: as ``transformer_prefill``; tokens outside the head.

    Notes:
        2 D flops per token of the vocabulary (or of the range) and row; logits beyond the range are never stored.
        Not differentiable.

    Source: as ``transformer_prefill``.
    """
    op = "transformer_head"
    check_call(op, stack, hidden, None)
    first, last = whole_number(op, "first", first, *INT64), whole_number(op, "last", last, *INT64)
    if not 0 <= first <= last <= stack.spec.head_size:
        raise InvalidValueError(f"{op}: first and last must lie in [0, {stack.spec.head_size}], got {first} and {last}")
    logits, sums = _head(stack.weights, hidden, stack.number, first, last, check_flag(op, "log_sums", log_sums))
    return logits, sums


def _head_cpu(
    weights: Tensor, hidden: Tensor, stack: int, first: int, last: int, log_sums: bool
) -> tuple[Tensor, Tensor]:
    logits = allocate("transformer_head", "logits", hidden.shape[0], last - first)
    sums = torch.empty(hidden.shape[0] if log_sums else 0)
    core.transformer_head(
        hidden=hidden,
        weights=weights,
        stack=stack,
        first=first,
        last=last,
        logits=logits,
        log_sums=sums if log_sums else None,
        num_threads=torch.get_num_threads(),
    )
    return logits, sums


_head = direct(
    _head_cpu,
    define(
        "transformer_head(Tensor weights, Tensor hidden, int stack, int first, int last, bool log_sums) "
        "-> (Tensor logits, Tensor log_sums)",
        kernels={"cpu": _head_cpu},
        twin=reference.transformer_head,
        fake=lambda hidden, first, last, log_sums: (
            hidden.new_empty(hidden.shape[0], last - first),
            hidden.new_empty(hidden.shape[0] if log_sums else 0),
        ),
    ),
)

"""One positive against some negatives per target: the loss and its gradients, without keeping the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BLOCK_FLOATS", "BLOCK_ROWS", "contrast"]

BLOCK_ROWS = 256  # targets scored at once, as in full_softmax.py
BLOCK_FLOATS = 1 << 22  # and no more logits or gathered negatives than this: 16 MiB


def contrast(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    negatives: Tensor,
    *,
    kind: Literal["softmax", "bce"],
    scale: float = 1.0,
    target_shift: Tensor | None = None,
    negative_shift: Tensor | None = None,
    hits: Callable[[int, int, Tensor], Tensor],
    positive_weight: float = 1.0,
) -> Tensor:
    """Mean over targets of a loss of one positive score and some negative scores.

    ::

        positive[m]    = scale * states[m] . table[targets[m]] + target_shift[m]
        negative[m, j] = scale * states[m] . table[negatives[m, j]] + negative_shift[m, j]     (j that are no hits)
        softmax:  loss[m] = -log(exp(positive) / (exp(positive) + sum_j exp(negative)))
        bce:      loss[m] = -positive_weight * log sigmoid(positive) - sum_j log sigmoid(-negative)

    Args:
        states: float ``[M, D]``.
        table: float ``[N, D]``.
        targets: int64 ``[M]``.
        negatives: int64 ``[K]``, the same for all targets, or ``[M, K]``; K may be 0.
        kind: which loss.
        scale: of all products: 1 / temperature.
        target_shift: float ``[M]``; ``None``: 0.
        negative_shift: float, shaped as ``negatives``; ``None``: 0.
        hits: ``hits(begin, end, negatives)`` -> bool ``[end - begin, K]``: pairs that do not count.
        positive_weight: of the positive's term, for "bce".

    Returns:
        A scalar, differentiable once in states and table.

    Notes:
        6 M K D flops; BLOCK_FLOATS logits (or gathered negatives) at once, whatever M and K. The gradient of the table
        is dense, as an optimizer's state is. Under autocast the products run in its dtype; the rest stays float32.
    """
    args = (states, table, targets, negatives, kind, scale, target_shift, negative_shift, hits, positive_weight)
    return _Contrast.apply(*args)  # type: ignore[no-untyped-call, no-any-return]


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        negatives: Tensor,
        kind: str,
        scale: float,
        target_shift: Tensor | None,
        negative_shift: Tensor | None,
        hits: Callable[[int, int, Tensor], Tensor],
        positive_weight: float,
    ) -> Tensor:
        device = states.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
        exact = torch.promote_types(states.dtype, torch.float32)
        count, depth = states.shape
        shared = negatives.dim() == 1
        per_row = negatives.shape[-1] * (1 if shared else depth)
        step = max(1, min(BLOCK_ROWS, BLOCK_FLOATS // max(1, per_row)))
        with torch.autocast(device, enabled=False):
            grad_states = torch.empty(count, depth, dtype=exact, device=states.device)
            grad_table = torch.zeros(table.shape, dtype=exact, device=states.device)
            loss = torch.zeros((), dtype=exact, device=states.device)
            common = table[negatives].to(low) if shared else None  # [K, D]
            grad_common = None if common is None else torch.zeros(common.shape, dtype=exact, device=states.device)
            for begin in range(0, count, step):
                end = min(count, begin + step)
                rows = states[begin:end].to(low)
                wanted = targets[begin:end]
                ids = negatives if shared else negatives[begin:end]
                own = table[wanted].to(low)
                positive = (rows.to(exact) * own.to(exact)).sum(1) * scale
                if common is not None:
                    against, negative = common, rows @ common.t()
                else:
                    against = table[ids].to(low)  # [m, K, D]
                    negative = torch.bmm(against, rows.unsqueeze(2)).squeeze(2)
                negative = negative.to(exact) * scale
                if target_shift is not None:
                    positive = positive + target_shift[begin:end].to(exact)
                if negative_shift is not None:
                    negative += (negative_shift if shared else negative_shift[begin:end]).to(exact)
                negative.masked_fill_(hits(begin, end, ids), -torch.inf)
                if kind == "softmax":
                    both = torch.cat([positive[:, None], negative], 1)
                    logs = F.log_softmax(both, 1)
                    loss -= logs[:, 0].sum()
                    grad = logs.exp_()
                    grad_positive, grad_negative = grad[:, 0] - 1.0, grad[:, 1:]
                else:
                    loss += positive_weight * F.softplus(-positive).sum() + F.softplus(negative).sum()
                    grad_positive, grad_negative = -positive_weight * torch.sigmoid(-positive), negative.sigmoid_()
                grad_positive, grad_negative = grad_positive[:, None] * scale, (grad_negative * scale).to(low)
                grad_table.index_add_(0, wanted, grad_positive * rows.to(exact))
                here = grad_positive * own.to(exact)
                if grad_common is not None:
                    grad_common += grad_negative.t() @ rows
                    here += grad_negative @ against
                else:
                    spread = grad_negative.unsqueeze(2) * rows.unsqueeze(1)  # [m, K, D]
                    grad_table.index_add_(0, ids.flatten(), spread.flatten(0, 1).to(exact))
                    here += torch.bmm(grad_negative.unsqueeze(1), against).squeeze(1)
                grad_states[begin:end] = here
            if grad_common is not None:
                grad_table.index_add_(0, negatives, grad_common)
        ctx.save_for_backward(grad_states.div_(count).to(states.dtype), grad_table.div_(count).to(table.dtype))
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_table = ctx.saved_tensors
        own = grad_states * grads[0].to(grad_states.dtype), grad_table * grads[0].to(grad_table.dtype)
        return (*own, *(None,) * 8)

"""One positive against some negatives per target: the loss and its gradients, without keeping the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ROWS = 256  # targets scored at once, as in full_softmax.py, or more with few negatives:
CACHED_FLOATS = 1 << 18  # logits or gathered negatives that stay in a second-level cache
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
        is dense, as an optimizer's state is, and made in the backward pass alone where fewer rows are met than there
        are. Under autocast the products run in its dtype; the rest stays float32.
    """
    terms = _Terms(kind, scale, target_shift, negative_shift, hits, positive_weight)
    return _Contrast.apply(states, table, targets, negatives, terms)  # type: ignore[no-untyped-call, no-any-return]


class _Terms(NamedTuple):
    """What ``contrast`` was told of the scores and the loss; nothing here has a gradient."""

    kind: Literal["softmax", "bce"]
    scale: float
    target_shift: Tensor | None
    negative_shift: Tensor | None
    hits: Callable[[int, int, Tensor], Tensor]
    positive_weight: float


def _products(against: Tensor, rows: Tensor, exact: torch.dtype) -> Tensor:
    """``[m, K, D]`` and ``[m, D]`` -> ``[m, K]``. torch's batched product of a vector is slow on a CPU, in float32."""
    if against.dtype == exact:
        return (against * rows.unsqueeze(1)).sum(2)
    return torch.bmm(against, rows.unsqueeze(2)).squeeze(2)


def _weighted(weights: Tensor, against: Tensor) -> Tensor:
    """``[m, K]`` and ``[m, K, D]`` -> ``[m, D]``: a sum over K. With one negative there is none."""
    if weights.shape[1] == 1:
        return weights * against[:, 0]
    return torch.bmm(weights.unsqueeze(1), against).squeeze(1)


class _TableGradient:
    """Gradients of rows of a table: kept as pairs while they are smaller than the table, else summed into one."""

    def __init__(self, table: Tensor, dtype: torch.dtype, parts: int) -> None:
        whole = parts > table.shape[0]
        self.dense = torch.zeros(table.shape, dtype=dtype, device=table.device) if whole else None
        self.ids = [torch.empty(0, dtype=torch.int64, device=table.device)]
        self.rows = [torch.empty(0, table.shape[1], dtype=dtype, device=table.device)]

    def add(self, ids: Tensor, rows: Tensor) -> None:
        if self.dense is not None:
            self.dense.index_add_(0, ids, rows)
            return
        self.ids.append(ids)
        self.rows.append(rows)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Ids and rows to add; no ids: the rows are the whole table's."""
        return torch.cat(self.ids), torch.cat(self.rows) if self.dense is None else self.dense


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor, terms: _Terms) -> Tensor:
        kind, scale, target_shift, negative_shift, hits, positive_weight = terms
        device = states.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
        exact = torch.promote_types(states.dtype, torch.float32)
        count, depth = states.shape
        shared = negatives.dim() == 1
        per_row = negatives.shape[-1] * (1 if shared else depth)
        step = max(1, min(max(BLOCK_ROWS, CACHED_FLOATS // max(1, per_row)), BLOCK_FLOATS // max(1, per_row)))
        with torch.autocast(device, enabled=False):
            grad_states = torch.empty(count, depth, dtype=exact, device=states.device)
            parts = count + negatives.shape[0] if shared else count * (1 + negatives.shape[1])
            grad_table = _TableGradient(table, exact, parts)
            loss = torch.zeros((), dtype=exact, device=states.device)
            common = table.index_select(0, negatives).to(low) if shared else None  # [K, D]
            grad_common = None if common is None else torch.zeros(common.shape, dtype=exact, device=states.device)
            for begin in range(0, count, step):
                end = min(count, begin + step)
                rows = states[begin:end].to(low)
                wanted = targets[begin:end]
                ids = negatives if shared else negatives[begin:end]
                own = table.index_select(0, wanted).to(low)
                positive = (rows.to(exact) * own.to(exact)).sum(1) * scale
                if common is not None:
                    against, negative = common, rows @ common.t()
                else:
                    against = table.index_select(0, ids.flatten()).to(low).unflatten(0, ids.shape)  # [m, K, D]
                    negative = _products(against, rows, exact)
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
                grad_positive = grad_positive[:, None] * (scale / count)
                grad_negative = (grad_negative * (scale / count)).to(low)
                grad_table.add(wanted, grad_positive * rows.to(exact))
                here = grad_positive * own.to(exact)
                if grad_common is not None:
                    grad_common += grad_negative.t() @ rows
                    here += grad_negative @ against
                else:
                    spread = grad_negative.unsqueeze(2) * rows.unsqueeze(1)  # [m, K, D]
                    grad_table.add(ids.flatten(), spread.flatten(0, 1).to(exact))
                    here += _weighted(grad_negative, against)
                grad_states[begin:end] = here
            if grad_common is not None:
                grad_table.add(negatives, grad_common)
        ctx.save_for_backward(grad_states.to(states.dtype), *grad_table.finish())
        ctx.table_shape, ctx.table_dtype = table.shape, table.dtype
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, ids, rows = ctx.saved_tensors
        own = grad_states * grads[0].to(grad_states.dtype)
        grad_table = rows * grads[0].to(rows.dtype)
        if len(ids) or not len(rows):
            grad_table = rows.new_zeros(ctx.table_shape).index_add_(0, ids, grad_table)
        return (own, grad_table.to(ctx.table_dtype), *(None,) * 3)

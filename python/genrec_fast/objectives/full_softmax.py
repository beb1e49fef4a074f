"""Full cross-entropy over all items, at the cost of its three matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_fast.base.batch import Batch, Loss
from genrec_fast.base.config import check_fields
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.objective import Objective
from genrec_fast.base.protocols import Embedding
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.objectives._negatives import check_targets, targets_of

# Rows of logits alive at once. 12,101 items, width 128: 32 rows 0.52 s for 2,624 targets, 128 0.35, 256 0.335,
# 1024 0.347; plain torch, which keeps all logits, 1.13.
BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class FullSoftmaxConfig:
    """Settings of ``FullSoftmax``."""

    label_smoothing: float = 0.0  # share of the target's probability spread over all items

    def __post_init__(self) -> None:
        check_fields(self, within={"label_smoothing": "[0, 1)"})

    def build(self, catalog: Catalog | None = None) -> FullSoftmax:
        return FullSoftmax(self)


class FullSoftmax(Objective):
    """Mean over targets of ``-log softmax(state . item_table)[target]``, over every item of the catalog.

    Source: the full cross-entropy that makes SASRec a strong baseline (Klenitskiy and Vasilev, arXiv:2309.07602).
    """

    needs = Embedding

    def __init__(self, config: FullSoftmaxConfig) -> None:
        self.config = config

    def __call__(self, system: Any, batch: Batch) -> Loss:
        """Loss over the M targets of a batch."""
        positions, targets = targets_of("FullSoftmax", batch)
        states, table = system.backbone.embed_targets(batch), system.backbone.item_table()
        check_targets("FullSoftmax", targets, table.shape[0])
        value = cross_entropy(states, table, targets, self.config.label_smoothing)
        return Loss(value, positions.numel())


def cross_entropy(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    added: tuple[Jagged, Tensor] | None = None,
) -> Tensor:
    """``F.cross_entropy(states @ table.T + added, targets, label_smoothing=...)`` without keeping the logits.

    Args:
        states: float ``[M, D]``.
        table: float ``[N, D]``.
        targets: int64 ``[M]`` in ``[0, N)``.
        label_smoothing: in ``[0, 1)``.
        added: int64 items, M rows, and float32 values of the same order, which are added to the logits; an item may
            stand in a row more than once. ``None``: nothing.

    Returns:
        A scalar, differentiable once in states, table and the values of ``added``.

    Notes:
        The gradients are made with the loss, block by block, so that logits live only in cache: 6 M N D flops and
        BLOCK_ROWS x N floats. Under autocast the products run in its dtype; sums and softmax stay float32.
    """
    items, values = added if added is not None else (None, None)
    return _CrossEntropy.apply(states, table, targets, label_smoothing, items, values)  # type: ignore[no-untyped-call, no-any-return]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        label_smoothing: float,
        added: Jagged | None,
        values: Tensor | None,
    ) -> Tensor:
        device = states.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
        exact = torch.promote_types(states.dtype, torch.float32)
        count, num_items = states.shape[0], table.shape[0]
        spread = label_smoothing / num_items
        with torch.autocast(device, enabled=False):
            # Whole vectors: an odd number of items costs the products a third of their speed (60 against 87 GFLOP/s).
            padding = -num_items % 64
            items = F.pad(table, (0, 0, 0, padding)).to(low)
            by_column = items.t().contiguous()
            grad_states = torch.empty(count, states.shape[1], dtype=exact, device=states.device)
            grad_items = torch.zeros(items.shape, dtype=exact, device=states.device)
            loss = torch.zeros((), dtype=exact, device=states.device)
            grad_values = None if values is None else torch.empty_like(values, dtype=exact)
            for begin in range(0, count, BLOCK_ROWS):
                rows = states[begin : begin + BLOCK_ROWS].to(low)
                wanted = targets[begin : begin + BLOCK_ROWS, None]
                logits = (rows @ by_column).to(exact)
                part, places = slice(0, 0), None
                if added is not None and values is not None:
                    part, places = _places(added, begin, begin + rows.shape[0], logits.shape[1])
                    logits.view(-1).index_add_(0, places, values[part].to(exact))
                mean = logits[:, :num_items].mean(1, keepdim=True) if label_smoothing else 0.0
                if padding:
                    logits[:, num_items:] = -torch.inf
                highest = logits.amax(1, keepdim=True)
                at_target = logits.gather(1, wanted)
                total = logits.sub_(highest).exp_().sum(1, keepdim=True)
                loss += (highest + total.log() - (1 - label_smoothing) * at_target - label_smoothing * mean).sum()
                grad = logits.mul_(1.0 / total)  # softmax - smoothed target = d loss / d logits
                if label_smoothing:
                    grad[:, :num_items] -= spread
                grad.scatter_add_(1, wanted, grad.new_full(wanted.shape, label_smoothing - 1.0))
                if grad_values is not None and places is not None:
                    grad_values[part] = grad.view(-1)[places]
                grad = grad.to(low)
                grad_states[begin : begin + BLOCK_ROWS] = grad @ items
                grad_items += grad.t() @ rows
        ctx.save_for_backward(
            grad_states.div_(count).to(states.dtype),
            grad_items[:num_items].div_(count).to(table.dtype),
            None if grad_values is None or values is None else grad_values.div_(count).to(values.dtype),
        )
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_items, grad_values = (
            None if grad is None else grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors
        )
        return grad_states, grad_items, None, None, None, grad_values


def _places(added: Jagged, begin: int, end: int, width: int) -> tuple[slice, Tensor]:
    """The entries of rows ``begin`` to ``end``, and where they stand in a block ``[end - begin, width]``, flat."""
    first, last = int(added.offsets[begin]), int(added.offsets[end])
    lengths = added.offsets[begin : end + 1].diff()
    rows = torch.repeat_interleave(torch.arange(end - begin, device=lengths.device), lengths)
    return slice(first, last), rows * width + added.values[first:last]

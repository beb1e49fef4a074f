"""Twin of ``transformer_head``."""

from __future__ import annotations

from torch import Tensor

from genrec_fast.ops.reference._transformer_layers import Layers


def transformer_head(
    weights: Tensor, hidden: Tensor, stack: int, first: int, last: int, log_sums: bool
) -> tuple[Tensor, Tensor]:
    """All logits, then what was asked for."""
    logits = Layers(weights, stack).linear("head", hidden)
    return logits[:, first:last], logits.logsumexp(1) if log_sums else logits.new_empty(0)

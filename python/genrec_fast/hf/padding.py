"""Prompts of different lengths in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged


def length_mask(lengths: Tensor) -> Tensor:
    """int64 ``[B, S]``: 1 for as many places as a row is long."""
    longest = int(lengths.max()) if lengths.numel() else 0
    return (torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)).long()


def left_padded(prompts: Jagged, kept: Jagged | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask int64 ``[B, S]``; ``kept`` is False where a token inside a prompt is masked."""
    place = length_mask(prompts.lengths).flip(1).bool()
    tokens = torch.zeros(place.shape, dtype=torch.int64, device=place.device)
    tokens[place] = prompts.values.to(place.device)
    mask = place.long()
    if kept is not None:
        mask[place] = kept.values.to(place.device).long()
    return tokens.to(device), mask.to(device)

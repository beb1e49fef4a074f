"""Vectors of items from what is known of them: an MLP over their features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TextVectors(nn.Module):
    """``LayerNorm``, then linear layers with ``LayerNorm`` and ReLU between them.

    A layer that keeps the number of channels adds to its input.

    Args:
        features: float ``[N, F]`` of all items; kept as a buffer that is not saved.
        hidden: channels between F and ``width``.
        width: channels of the result.
    """

    features: Tensor

    def __init__(self, features: Tensor, hidden: Sequence[int], width: int) -> None:
        super().__init__()
        self.register_buffer("features", features.to(torch.float32), persistent=False)
        widths = [features.shape[1], *hidden, width]
        # Features of any scale are read as vectors of length sqrt(F).
        self.norm = nn.LayerNorm(features.shape[1], elementwise_affine=False)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in widths[1:-1])

    def forward(self, features: Tensor) -> Tensor:
        """``[E, F] -> [E, D]``."""
        x: Tensor = self.norm(features)
        for number, layer in enumerate(self.layers):
            made = layer(x)
            if number < len(self.norms):
                made = torch.relu(self.norms[number](made))
            x = x + made if made.shape == x.shape else made
        return x

    def table(self) -> Tensor:
        """``[N, D]``: the vectors of all items, of length 1."""
        return nn.functional.normalize(self(self.features).float(), dim=1)

"""NCI: a T5 whose output weights are made anew for every prefix of codes that was written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.branches import attended
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.packed import Packing


@dataclass(frozen=True, kw_only=True)
class NCIConfig(T5Config):
    """Settings of ``NCI``."""

    adaptor_layers: int = 4  # of the network that reads the prefix
    adaptor_heads: int = 8  # a divisor of width
    adaptor_hidden: int = 2048  # channels of its feed-forward

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.adaptor_heads:
            raise InvalidValueError(
                f"NCIConfig: adaptor_heads must divide width = {self.width}, got {self.adaptor_heads}"
            )

    def build(self, catalog: Catalog) -> NCI:
        """Makes the backbone; it reads codes alone, so items and features are not used."""
        return NCI(self, catalog.codebook_sizes)


class NCI(T5):
    """``T5`` with a prefix-aware head.

    ::

        a = adaptor(embeddings of the codes written before)              causal layers that see no history
        logit of code c = h . (w_c + A_c a)                              h the decoder's state, w_c the head's row

    A is ``[V, D, D]``, one matrix per code: with few codes a level, as the paper has them, it stays small. What a
    search keeps of the adaptor's layers stands behind that of the decoder's.

    Notes:
        The published adaptor also attends to one learned vector, which adds the same to every row: here that vector is
        learned itself.

    Source: NCI (arXiv:2206.02743), section 3.2 (prefix-aware weight-adaptive decoder), its published code.
    """

    def __init__(self, config: NCIConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__(config, codebook_sizes)
        self.adaptor = nn.ModuleList(_AdaptorLayer(config) for _ in range(config.adaptor_layers))
        self.adapted = nn.Parameter(torch.empty(self.level_offsets[-1], config.width, config.width))
        nn.init.normal_(self.adapted, std=config.width**-1.5)

    def _native(self) -> NativeEngine | None:
        """The native engine knows no adaptor."""
        return None

    def _stated(self, x: Tensor, embedded: Tensor, rows: Packing) -> Tensor:
        """``[R, 2 D]``: the decoder's state and the adaptor's."""
        read = embedded
        for number, layer in enumerate(self.adaptor):
            read = layer(read, rows, len(self.decoder) + number)
        return torch.cat([x, read.to(x.dtype)], 1)

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """``[R, K_l]``."""
        begin, end = self.level_offsets[level], self.level_offsets[level + 1]
        states, read = hidden.chunk(2, 1)
        pairs = (states[:, :, None] * read[:, None, :]).flatten(1)  # [R, D D]: one product for all codes
        weights = self.adapted[begin:end].flatten(1)
        return F.linear(states, self.head_weight[begin:end]) + F.linear(pairs, weights)


class _AdaptorLayer(nn.Module):
    """A layer over the codes of a prefix, a norm after each sum."""

    def __init__(self, config: NCIConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.adaptor_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.given = nn.Parameter(torch.zeros(width))
        self.mlp_in, self.mlp_out = nn.Linear(width, config.adaptor_hidden), nn.Linear(config.adaptor_hidden, width)
        self.own_norm, self.given_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, rows: Packing, layer: int) -> Tensor:
        """``x [R, D]`` -> ``[R, D]``; ``layer``: under which number ``rows.past`` knows this one."""
        width = x.shape[1]
        queries, keys, values = self.qkv(x).view(-1, 3, self.heads, width // self.heads).unbind(1)
        seen = attended(queries, keys, values, rows, layer, causal=True)
        x = self.own_norm(x + self.dropout(self.out(seen.reshape(-1, width))))
        x = self.given_norm(x + self.given)
        out: Tensor = self.mlp_norm(x + self.dropout(self.mlp_out(F.relu(self.mlp_in(x)))))
        return out

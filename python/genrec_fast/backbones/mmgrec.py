"""MMGRec: an encoder of a set of items, whose attention a user's own scalar bends, in front of T5's decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.base.batch import Batch
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import ProjectedFeatures
from genrec_fast.ops import jagged_attention


@dataclass(frozen=True, kw_only=True)
class MMGRecConfig(T5Config):
    """Settings of ``MMGRec``; the defaults are those of its code."""

    needs_features: ClassVar[bool] = True  # no catalog without feature vectors will do
    width: int = 64  # channels
    num_heads: int = 4
    num_layers: int = 2  # of the encoder, and as many of the decoder
    hidden: int = 64  # channels of the feed-forward
    dropout: float = 0.2  # rate
    num_user_tokens: int = 0  # always: users are the means of their items

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_user_tokens:
            raise InvalidValueError(f"MMGRecConfig: num_user_tokens must be 0, got {self.num_user_tokens}")

    def build(self, catalog: Catalog) -> MMGRec:
        """Makes the backbone of a catalog with features.

        Raises:
            InvalidValueError: it has none, or its layout does not hand them on.
        """
        if catalog.features is None:
            raise InvalidValueError("MMGRecConfig: catalog must have features (layout use_features), got None")
        return MMGRec(self, catalog.codebook_sizes, catalog.features.shape[1])


class MMGRec(T5):
    """``T5`` whose encoder reads items by their features, in no order.

    ::

        x = projected features of the history's items;  u = their mean;  s = w . u
        relation of i and j   (q_i . k_j + s^2 (U_q x_i) . (U_k x_j)) / sqrt(head_width)
        value of j            v_j + s U_v x_j

    q, k and v are a head's, the U's are shared by heads, w, U and all else are a layer's own. So how much two items
    have to do with each other depends on who chose them; where an item stands in the history makes no difference.
    Speaks ``Autoregressive`` and ``TeacherForced``; torch runs it. Training asks for the last position of each history
    (``targets="last"``).

    Notes:
        Both products are one, over keys that hold the two side by side: twice the width of a head, and no matrix of
        relations in memory.

    Source: MMGRec (arXiv:2404.16555), relation-aware self-attention, as its code (hanliu95/MMGRec) has it.
    """

    def __init__(self, config: MMGRecConfig, codebook_sizes: tuple[int, ...], feature_dim: int) -> None:
        super().__init__(config, codebook_sizes)
        del self.encoder_bias, self.encoder_norm
        self.encoder = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.contents = ProjectedFeatures(feature_dim, config.width)

    @property
    def longest(self) -> int:
        """Tokens of the longest history: its items."""
        return self.config.max_items

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        check_length("mmgrec", batch, self.config.max_items)
        if batch.features is None:
            raise InvalidValueError("mmgrec: batch must have features (let it pass a layout first), got None")
        offsets, rows = batch.items.offsets, batch.items.row_index()
        x: Tensor = self.contents(batch.features)
        users = x.new_zeros(len(batch), x.shape[1]).index_add(0, rows, x)
        users = (users / batch.items.lengths.clamp(min=1)[:, None])[rows]
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x, users, offsets)
        return x, offsets

    def _native(self) -> None:
        return None


class _Layer(nn.Module):
    """Attention that the user bends, and feed-forward; a norm after each sum, without weights."""

    def __init__(self, config: MMGRecConfig) -> None:
        super().__init__()
        width, inner = config.width, config.num_heads * config.head_width
        self.heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.related = nn.Linear(width, 3 * config.head_width, bias=False)
        self.scalar = nn.Linear(width, 1, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.into, self.back = nn.Linear(width, config.hidden, bias=False), nn.Linear(config.hidden, width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, users: Tensor, offsets: Tensor) -> Tensor:
        """``x [E, D]`` of rows at ``offsets``, and each token's user ``[E, D]``."""
        width = x.shape[1]
        queries, keys, values = self.qkv(x).unflatten(1, (3, self.heads, -1)).unbind(1)
        bent = (self.related(x) * self.scalar(users)).unflatten(1, (3, 1, -1)).expand(-1, -1, self.heads, -1)
        user_queries, user_keys, user_values = bent.unbind(1)
        seen = jagged_attention(
            torch.cat([queries, user_queries], 2),
            torch.cat([keys, user_keys], 2),
            values + user_values,
            offsets,
            kind="softmax",
            causal=False,
            alpha=float(queries.shape[2]) ** -0.5,
        )
        x = F.layer_norm(x + self.dropout(self.out(seen.flatten(1))), (width,))
        return F.layer_norm(x + self.back(F.relu(self.into(x))), (width,))

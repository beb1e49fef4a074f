"""H2Rec: items by vectors of their own and by their codes, each read through the other, level by level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import CodeEmbeddings, ItemIds
from genrec_fast.nn.packed import Packing, last_of_rows, row_positions
from genrec_fast.nn.transformer import Block, init_weights
from genrec_fast.ops import jagged_attention

_COARSE, _FINE = 1.0, 0.2  # what the gate adds to the first and the last level, even between


@dataclass(frozen=True, kw_only=True)
class TwoIdsConfig:
    """Settings of ``TwoIds``."""

    width: int = 64  # channels of each branch
    num_heads: int = 2  # of the blocks, a divisor of width
    cross_heads: int = 4  # of the attention from one branch to the other, a divisor of width
    num_layers: int = 2  # of the blocks that both branches share
    hidden: int = 256  # channels inside their MLPs
    dropout: float = 0.2  # rate
    gate_dropout: float = 0.1  # rate inside the gate over levels
    hidden_share: float = 0.5  # of the levels, those of the lowest gates, that ``masked_users`` hides; at least one
    start: bool = True  # items' own vectors begin as principal components of the features, which there must be
    max_items: int = 50  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self, within={"hidden_share": "[0, 1]"})
        for heads in (self.num_heads, self.cross_heads):
            check_heads("TwoIdsConfig", self.width, heads)

    def build(self, catalog: Catalog) -> TwoIds:
        """Makes the backbone of a catalog with semantic IDs, and with features where vectors begin as them."""
        return TwoIds(self, catalog)


class TwoIds(nn.Module):
    """Two branches over one history, whose states stand side by side.

    ::

        h = own vectors, s_l = embeddings of level l's codes, s = mean_l s_l      each scaled, with positions
        g = softmax(mlp([h, b]) + b) over the levels, b from 1 (coarse) to 0.2 (fine)
        first branch    blocks(sum_l g_l attention_l(s_l over h))
        second branch   blocks(attention(h over s))                               the same blocks
        user = [first, second];  item = [own vector, s];  score = user . item

    All attention is causal. Speaks ``Embedding`` and ``DualVectors``. A history without items has the state 0.

    Source: H2Rec (arXiv:2512.10388) and its public code.
    """

    item_codes: Tensor

    def __init__(self, config: TwoIdsConfig, catalog: Catalog) -> None:
        super().__init__()
        if catalog.item_codes is None:
            raise InvalidValueError("TwoIds: catalog must have item_codes, got None")
        if config.start and catalog.features is None:
            raise InvalidValueError("TwoIds: catalog must have features where own vectors begin as them, got None")
        width, levels = config.width, len(catalog.codebook_sizes)
        self.config = config
        self.ids = ItemIds(catalog.num_items, width, start=catalog.features if config.start else None)
        self.codes = CodeEmbeddings(catalog.codebook_sizes, width, mean=True)
        self.register_buffer("item_codes", catalog.item_codes.long(), persistent=False)
        self.positions = nn.Embedding(config.max_items, width)
        self.from_levels = nn.ModuleList(_Cross(width, config.cross_heads) for _ in range(levels))
        self.from_ids = _Cross(width, config.cross_heads)
        self.gate_in, self.gate_out = nn.Linear(width + levels, width // 2), nn.Linear(width // 2, levels)
        self.masks = nn.Parameter(torch.empty(levels, width))
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout, self.gate_dropout = Dropout(config.dropout), Dropout(config.gate_dropout)
        self.bias: Tensor
        self.register_buffer("bias", torch.linspace(_COARSE, _FINE, levels), persistent=False)
        self.apply(init_weights)
        nn.init.normal_(self.masks, std=0.02)

    def _rows(self, batch: Batch) -> Packing:
        check_length("two_ids", batch, self.config.max_items)
        offsets = batch.items.offsets
        return Packing(offsets, row_positions(offsets), self.config.max_items)

    def _placed(self, vectors: Tensor, rows: Packing) -> Tensor:
        placed: Tensor = self.dropout(vectors * math.sqrt(self.config.width) + self.positions(rows.positions))
        return placed

    def _levels(self, items: Tensor, rows: Packing) -> list[Tensor]:
        """Per level ``[E, D]``."""
        codes = self.item_codes[items]
        return [self._placed(table(codes[:, level]), rows) for level, table in enumerate(self.codes)]

    def _gates(self, own: Tensor) -> Tensor:
        """``[E, L]``."""
        told = torch.cat([own, self.bias.to(own.dtype).expand(len(own), -1)], 1)
        logits: Tensor = self.gate_out(self.gate_dropout(F.relu(self.gate_in(told)))) + self.bias
        return logits.softmax(1)

    def _through(self, x: Tensor, rows: Packing) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x, rows, number)
        normed: Tensor = self.norm(x)
        return normed

    def states(self, batch: Batch) -> Tensor:
        """``[E, 2 D]``: both branches' states after each item."""
        rows, items = self._rows(batch), batch.items.values
        own = self._placed(self.ids(items), rows)
        gates, asked = self._gates(own), self._levels(items, rows)
        parts = [gates[:, level, None] * cross(asked[level], own, rows) for level, cross in enumerate(self.from_levels)]
        first = self._through(torch.stack(parts).sum(0), rows)
        second = self._through(self.from_ids(own, self._placed(self.code_vectors(items), rows), rows), rows)
        return torch.cat([first, second], 1)

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, 2 D]``: the state that predicts each target."""
        return self.states(batch)[batch.target_positions]

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, 2 D]``: the state after each whole history."""
        return last_of_rows(self.states(batch), batch.items.offsets)

    def item_table(self) -> Tensor:
        """``[N, 2 D]``."""
        return torch.cat([self.ids.table(), self.codes(self.item_codes)], 1)

    def id_vectors(self, items: Tensor) -> Tensor:
        """``[n, D]``: own vectors."""
        vectors: Tensor = self.ids(items)
        return vectors

    def code_vectors(self, items: Tensor) -> Tensor:
        """``[n, D]``: means of the codes' embeddings."""
        vectors: Tensor = self.codes(self.item_codes[items])
        return vectors

    def masked_users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """At the targets, ``[M, D]`` each: gated sums of levels through the blocks, without and with hidden levels."""
        rows, items = self._rows(batch), batch.items.values
        gates, levels = self._gates(self._placed(self.ids(items), rows)), self._levels(items, rows)
        count = max(1, int(len(levels) * self.config.hidden_share))
        hidden = torch.zeros_like(gates, dtype=torch.bool)
        hidden.scatter_(1, gates.topk(count, dim=1, largest=False).indices, value=True)
        views = torch.stack(levels, 1)
        masked = torch.where(hidden[..., None], self.masks.to(views.dtype), views)
        both = [self._through((gates[..., None] * part).sum(1), rows) for part in (views, masked)]
        return both[0][batch.target_positions], both[1][batch.target_positions]


class _Cross(nn.Module):
    """Causal attention of queries over keys of the same rows; nothing of the queries is added."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Tensor, rows: Packing) -> Tensor:
        """``x [E, D]`` over ``seen [E, D]`` -> ``[E, D]``."""
        queries = self.queries(x).unflatten(1, (self.num_heads, -1))
        keys, values = self.keys_values(seen).unflatten(1, (2, self.num_heads, -1)).unbind(1)
        found = jagged_attention(queries, keys, values, rows.offsets, kind="softmax", causal=True)
        out: Tensor = self.out(found.flatten(1))
        return out

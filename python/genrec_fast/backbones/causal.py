"""SASRec: a causal transformer over items whose embedding table is also the output layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.fused_items import FusedItems
from genrec_fast.nn.histories import at_targets, check_length, with_start
from genrec_fast.nn.item_inputs import ITEMS, ItemIds, ItemInputs, ItemInputsConfig, item_inputs
from genrec_fast.nn.packed import Packing, Past, last_of_rows
from genrec_fast.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Settings of ``Causal``."""

    width: int = 128  # channels
    num_heads: int = 2  # a divisor of width
    num_layers: int = 2  # SASRec, section 4.1
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.5  # rate; SASRec, section 4.2, on sparse data
    normalize: bool = False  # users and items of length 1, scored by their cosine / temperature
    temperature: float = 0.07  # divides the cosine; read only with normalize
    max_items: int = 50  # longest history, items
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",), above=("temperature",))
        check_heads("CausalConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Causal:
        """Makes the backbone; of the catalog it reads what ``items`` names."""
        return Causal(self, catalog)


class Causal(nn.Module):
    """Item embeddings, learned positions counted from the start of the history, pre-norm causal blocks.

    Speaks ``Embedding`` and ``Resumable``. An empty history has the state of a start vector that stands in
    front of every one.

    Source: SASRec (arXiv:1808.09781).
    """

    items: ItemIds | ItemInputs | FusedItems

    def __init__(self, config: CausalConfig, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.items = item_inputs(config.items, catalog, config.width)
        self.positions = nn.Embedding(config.max_items + 1, config.width)
        self.start = nn.Parameter(torch.empty(config.width))
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.hidden, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(init_weights)
        nn.init.normal_(self.start, std=1.0)

    @property
    def cache_shapes(self) -> list[tuple[int, int, int]]:
        """Per block: heads, channels of a key and of a value."""
        per_head = self.config.width // self.config.num_heads
        return [(self.config.num_heads, per_head, per_head)] * len(self.blocks)

    first_tokens = 1
    """the start"""
    open_events = 0
    reads_times = False

    def _states(self, batch: Batch, past: Past | None = None, vectors: Tensor | None = None) -> tuple[Tensor, Packing]:
        """``[E + B, D]``: each row's start, then its state after each item; and its rows.

        ``vectors [E, D]``: what is read of the items in place of their scaled embeddings.
        """
        check_length("causal", batch, self.config.max_items)
        if vectors is None:
            vectors = self.items(batch.items.values) * math.sqrt(self.config.width)
        x, rows = with_start(vectors, batch.items, self.start, self.config.max_items, past)
        x = self.input_dropout(x + self.positions(rows.positions))
        for number, block in enumerate(self.blocks):
            x = block(x, rows, number)
        normed: Tensor = self.norm(x)
        return normed, rows

    def last_states(self, batch: Batch, past: Past | None = None) -> Tensor:
        """``[B, D]``: the state after each row's last token of this pass; 0 for a row without any."""
        states, rows = self._states(batch, past)
        return last_of_rows(states, rows.offsets)

    def user_vectors(self, states: Tensor) -> Tensor:
        """What is multiplied with ``item_table``, from states."""
        return F.normalize(states, dim=-1) / self.config.temperature if self.config.normalize else states

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state that predicts each target."""
        return self.user_vectors(at_targets(self._states(batch)[0], batch))

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state after each whole history."""
        return self.user_vectors(self.last_states(batch))

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        table = self.items.table()
        return F.normalize(table, dim=-1) if self.config.normalize else table

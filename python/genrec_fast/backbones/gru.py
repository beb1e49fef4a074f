"""GRU4Rec: a recurrent network over packed histories."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from genrec_fast.base.batch import Batch
from genrec_fast.base.config import check_fields
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import ITEMS, ItemInputsConfig, item_inputs
from genrec_fast.nn.packed import last_of_rows, row_positions
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class GRUConfig:
    """Settings of ``GRU``."""

    width: int = 128  # channels of the embeddings
    hidden: int = 128  # units of a layer
    num_layers: int = 1  # GRU4Rec, section 4.1: more layers were no better
    dropout: float = 0.5  # rate, on the inputs, between layers and on the output
    max_items: int = 50  # longest history, items
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, catalog: Catalog) -> GRU:
        """Makes the backbone; of the catalog it reads what ``items`` names."""
        return GRU(self, catalog)


class GRU(nn.Module):
    """Item embeddings, gated recurrent layers, a projection; the table of the input also scores ("constrained").

    Rows are read side by side, event by event, without padding: all first events, all second ones, ... An empty
    history has the state of a network that has read nothing.

    Speaks ``Embedding``.

    Source: GRU4Rec (arXiv:1511.06939); constrained embeddings: arXiv:1706.03847.
    """

    def __init__(self, config: GRUConfig, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.items = item_inputs(config.items, catalog, config.width)
        self.input_dropout = Dropout(config.dropout)
        between = config.dropout if config.num_layers > 1 else 0.0
        self.gru = nn.GRU(config.width, config.hidden, config.num_layers, dropout=between)
        self.output_dropout = Dropout(config.dropout)
        self.out = nn.Linear(config.hidden, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.items.apply(init_weights)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _states(self, batch: Batch) -> Tensor:
        """``[E, D]``: the state after each event."""
        check_length("gru", batch, self.config.max_items)
        x = self.input_dropout(self.items(batch.items.values) * math.sqrt(self.config.width))
        if x.shape[0]:
            order, batch_sizes = side_by_side(batch.items)
            with torch.autocast(x.device.type, enabled=False):  # torch has no recurrent kernel for it on a CPU
                read, _ = self.gru(PackedSequence(x[order].float(), batch_sizes))
            x = torch.empty_like(read.data).index_copy(0, order, read.data)
        else:
            x = x.new_zeros(0, self.config.hidden)
        return self._read_out(x)

    def _read_out(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.out(self.output_dropout(hidden)))
        return normed

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state that predicts each target."""
        return self._states(batch)[batch.target_positions]

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state after each whole history."""
        last = last_of_rows(self._states(batch), batch.items.offsets)
        nothing = self._read_out(self.out.weight.new_zeros(1, self.config.hidden)).to(last.dtype)
        return torch.where((batch.items.lengths > 0)[:, None], last, nothing)

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        return self.items.table()


def side_by_side(items: Jagged) -> tuple[Tensor, Tensor]:
    """The order in which torch's recurrent networks read packed rows, and how many rows still run at each event.

    Returns:
        int64 ``[E]``: indices into ``items.values``: all first events (longest row first), all second ones, ...; and
        int64 ``[S]`` on the CPU.
    """
    lengths = items.lengths
    rank = torch.empty_like(lengths)
    count = lengths.shape[0]
    rank[torch.argsort(lengths, descending=True, stable=True)] = torch.arange(count, device=lengths.device)
    positions = row_positions(items.offsets)
    order = torch.argsort(positions * count + torch.repeat_interleave(rank, lengths))
    return order, torch.bincount(positions).cpu()

"""BERT4Rec: every item sees the whole row, and predicts the masked items from the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import ITEMS, ItemInputsConfig, item_inputs
from genrec_fast.nn.packed import row_positions
from genrec_fast.nn.packed_block import PackedBlock, appended, before_targets
from genrec_fast.nn.transformer import init_weights

MASKED = -1


@dataclass(frozen=True, kw_only=True)
class BidirectionalConfig:
    """Settings of ``Bidirectional``."""

    width: int = 128  # channels
    num_heads: int = 2  # a divisor of width; BERT4Rec, section 4.4
    num_layers: int = 2  # BERT4Rec, section 4.4
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.2  # rate
    max_items: int = 50  # longest history, items; a row has one token more
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",))
        check_heads("BidirectionalConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Bidirectional:
        """Makes the backbone; of the catalog it reads what ``items`` names."""
        return Bidirectional(self, catalog)


class Bidirectional(nn.Module):
    """Item embeddings, learned positions from the start of the row, blocks in which every token sees its whole row.

    A user is asked by a masked item behind the history: its state is the user's. Speaks ``MaskedEmbedding``,
    and ``Embedding``, where each target costs a row of its own: the items before it and a mask.

    Source: BERT4Rec (arXiv:1904.06690).
    """

    def __init__(self, config: BidirectionalConfig, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.items = item_inputs(config.items, catalog, config.width)
        self.mask = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Embedding(config.max_items + 1, config.width)
        self.input_norm = nn.LayerNorm(config.width)
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PackedBlock(config.width, config.num_heads, config.hidden, config.dropout, causal=False, form="bert")
            for _ in range(config.num_layers)
        )
        self.head = nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), nn.LayerNorm(config.width))
        self.apply(init_weights)
        nn.init.normal_(self.mask, std=0.02)

    def embed_masked(self, items: Jagged, at: Tensor) -> Tensor:
        """The states of some positions of rows in which items are masked.

        Args:
            items: int64 ids; -1: a masked item. Rows of at most ``max_items + 1``.
            at: int64 ``[M]``: which positions of ``items.values``.

        Returns:
            ``[M, D]``.

        Raises:
            InvalidValueError: a row that is too long, or an item below -1.
        """
        lengths, longest = items.lengths, self.config.max_items + 1
        if lengths.numel() and int(lengths.max()) > longest:
            raise InvalidValueError(
                f"bidirectional: rows must have at most max_items + 1 = {longest} tokens, got {int(lengths.max())}"
            )
        if items.values.device.type == "cpu" and items.values.numel() and int(items.values.min()) < MASKED:
            raise InvalidValueError(
                f"bidirectional: items must be ids or {MASKED} for a masked one, got {int(items.values.min())}"
            )
        known = self.items(items.values.clamp(min=0))
        x = torch.where((items.values == MASKED)[:, None], self.mask.to(known.dtype), known)
        x = self.input_dropout(self.input_norm(x + self.positions(row_positions(items.offsets))))
        for block in self.blocks:
            x = block(x, items.offsets)
        states: Tensor = self.head(x[at])
        return states

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state of a masked item behind each history."""
        check_length("bidirectional", batch, self.config.max_items)
        return self._next(batch.items)

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the state of a masked item in each target's place, behind what came before it."""
        check_length("bidirectional", batch, self.config.max_items)
        return self._next(before_targets(batch))

    def _next(self, rows: Jagged) -> Tensor:
        mask = torch.full((1,), MASKED, dtype=rows.values.dtype, device=rows.values.device)
        longer = Jagged(*appended(rows.values, rows.offsets, mask))
        return self.embed_masked(longer, longer.offsets[1:] - 1)

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        return self.items.table()

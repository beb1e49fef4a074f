"""PinRec: one state predicts several of the items to come, each with a token of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from genrec_fast.backbones.causal import CausalConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.item_inputs import ITEMS, ItemInputsConfig
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class PinRecConfig:
    """Settings of ``PinRec``."""

    width: int = 128  # channels
    num_heads: int = 2  # a divisor of width
    num_layers: int = 2
    hidden: int = 512  # channels inside the MLP of a block, and of the output head
    num_tokens: int = 4  # I: items to come that a state predicts
    dropout: float = 0.5  # rate
    max_items: int = 50  # longest history, items
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",))
        check_heads("PinRecConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> PinRec:
        """Makes the backbone; of the catalog it reads what ``items`` names."""
        return PinRec(self, catalog)


class PinRec(nn.Module):
    """``Causal``, and a head that makes I tokens of each state: ``token_i = state + MLP([state; offset_i])``.

    Token i stands for the i-th item to come. Speaks ``Embedding`` with its first token, ``Interests`` with
    all of them, and ``embed_tokens``, which ``objectives.MultiToken`` trains.

    Source: PinRec (arXiv:2504.10507): the head and its condition, several tokens of one state.
    """

    def __init__(self, config: PinRecConfig, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.core = CausalConfig(
            width=config.width,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            hidden=config.hidden,
            dropout=config.dropout,
            max_items=config.max_items,
            items=config.items,
        ).build(catalog)
        self.offsets = nn.Embedding(config.num_tokens, config.width)
        self.head = nn.Sequential(
            nn.Linear(2 * config.width, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.width)
        )
        self.offsets.apply(init_weights)
        self.head.apply(init_weights)

    def _tokens(self, states: Tensor) -> Tensor:
        """``[R, D]`` -> ``[R, I, D]``."""
        wide = states[:, None].expand(-1, self.config.num_tokens, -1)
        offsets = self.offsets.weight.to(states.dtype).expand(states.shape[0], -1, -1)
        tokens: Tensor = wide + self.head(torch.cat([wide, offsets], 2))
        return tokens

    @property
    def num_tokens(self) -> int:
        """I."""
        return self.config.num_tokens

    def embed_tokens(self, batch: Batch) -> Tensor:
        """``[M, I, D]``: the tokens of the state in front of each target."""
        return self._tokens(self.core.embed_targets(batch))

    def embed_interests(self, batch: Batch) -> Tensor:
        """``[B, I, D]``: the tokens of the state after each whole history."""
        return self._tokens(self.core.embed_users(batch))

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: the token of the very next item."""
        return self.embed_tokens(batch)[:, 0]

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the token of the very next item after each whole history."""
        return self.embed_interests(batch)[:, 0]

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        return self.core.item_table()

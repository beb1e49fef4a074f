"""KuaiFormer: old items are read in groups, and several query tokens at the end give the user's interests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.jagged import Jagged, offsets_of
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length
from genrec_fast.nn.item_inputs import ITEMS, ItemInputsConfig, item_inputs
from genrec_fast.nn.packed_block import PackedBlock, appended, before_targets
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class KuaiFormerConfig:
    """Settings of ``KuaiFormer``."""

    width: int = 128  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 4  # of the stack over tokens
    hidden: int = 256  # channels inside the gated MLP of a block
    num_queries: int = 4  # I: query tokens, one interest each
    recent: int = 48  # so many last items have a token each; KuaiFormer, section 3.2: 48 of 256
    middle: int = 80  # so many items before them are read in groups ...
    middle_group: int = 16  # ... of so many
    early_group: int = 64  # and all before those in groups of so many
    dropout: float = 0.1  # rate
    max_items: int = 256  # longest history, items
    items: ItemInputsConfig = field(default=ITEMS, metadata={"absent": ITEMS})  # what is read of an item

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers", "middle"))
        check_heads("KuaiFormerConfig", self.width, self.num_heads)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest history, without queries."""
        left = max(0, self.max_items - self.recent)
        middle = min(left, self.middle)
        tokens = min(self.max_items, self.recent) + -(-middle // self.middle_group)
        return tokens + -(-(left - middle) // self.early_group)

    def build(self, catalog: Catalog) -> KuaiFormer:
        """Makes the backbone; of the catalog it reads what ``items`` names."""
        return KuaiFormer(self, catalog)


class KuaiFormer(nn.Module):
    """Item embeddings; groups of early items become one token each; causal blocks over tokens and query tokens.

    Groups are counted back from the newest item. A group passes one bidirectional block, and its mean is its token. The
    queries stand behind the history and see it, and each other backwards; their states are the user's interests. A
    target is predicted by the interest that lies nearest to it, an item's score is that of its best interest.

    Speaks ``Interests``, and ``Embedding``, where a user is the last query alone (which sees the others)
    and each target costs a row of its own: train with ``targets="last"``.

    Source: KuaiFormer (arXiv:2411.10057), sections 3.2 to 3.4.
    """

    def __init__(self, config: KuaiFormerConfig, catalog: Catalog) -> None:
        super().__init__()
        self.config = config
        self.items = item_inputs(config.items, catalog, config.width)
        self.places = nn.Embedding(config.max_items, config.width)  # of an item, counted from the newest
        self.queries = nn.Parameter(torch.empty(config.num_queries, config.width))
        self.input_dropout = Dropout(config.dropout)
        self.compress = self._block(causal=False)
        self.blocks = nn.ModuleList(self._block(causal=True) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.apply(init_weights)
        nn.init.normal_(self.queries, std=0.02 * math.sqrt(config.width))

    def _block(self, *, causal: bool) -> PackedBlock:
        c = self.config
        return PackedBlock(c.width, c.num_heads, c.hidden, c.dropout, causal=causal, form="llama")

    def _interests(self, items: Jagged) -> Tensor:
        """``[B, I, D]``."""
        c = self.config
        embedded = self.items(items.values) * math.sqrt(c.width)
        back = torch.repeat_interleave(items.offsets[1:], items.lengths) - 1
        back = back - torch.arange(items.values.shape[0], device=back.device)  # 0: the newest of its row
        x = self.input_dropout(embedded + self.places(back))
        tokens, offsets = self._compressed(x, items, back)
        x, offsets = appended(tokens, offsets, self.queries)
        for block in self.blocks:
            x = block(x, offsets)
        at = offsets[1:, None] - c.num_queries + torch.arange(c.num_queries, device=offsets.device)
        interests: Tensor = self.norm(x[at.flatten()]).view(len(items), c.num_queries, c.width)
        return interests

    def _compressed(self, x: Tensor, items: Jagged, back: Tensor) -> tuple[Tensor, Tensor]:
        """Items ``[E, D]`` -> tokens ``[T, D]`` and their rows' offsets."""
        group = token_numbers(back, self.config)
        rows = items.row_index()
        starts = torch.ones_like(group, dtype=torch.bool)
        starts[1:] = (group[1:] != group[:-1]) | (rows[1:] != rows[:-1])
        token = torch.cumsum(starts, 0) - 1
        first = starts.nonzero().squeeze(1)
        offsets = offsets_of(torch.bincount(rows[first], minlength=len(items)))
        early = back >= self.config.recent
        if not bool(early.any()):
            return x, offsets
        grouped = early[first].nonzero().squeeze(1)  # tokens of several items, or of an early one
        lengths = torch.bincount(token, minlength=first.shape[0])[grouped]
        read = self.compress(x[early], offsets_of(lengths))
        owner = torch.repeat_interleave(torch.arange(grouped.shape[0], device=x.device), lengths)
        sums = read.new_zeros(grouped.shape[0], x.shape[1]).index_add(0, owner, read)
        means = sums / lengths[:, None]
        return x[first].index_copy(0, grouped, means.to(x.dtype)), offsets

    def embed_interests(self, batch: Batch) -> Tensor:
        """``[B, I, D]``: the states of the queries behind each history."""
        check_length("kuaiformer", batch, self.config.max_items)
        return self._interests(batch.items)

    def embed_users(self, batch: Batch) -> Tensor:
        """``[B, D]``: the state of the last query."""
        return self.embed_interests(batch)[:, -1]

    def embed_targets(self, batch: Batch) -> Tensor:
        """``[M, D]``: of the interests before each target the one nearest to it."""
        check_length("kuaiformer", batch, self.config.max_items)
        assert batch.targets is not None
        interests = self._interests(before_targets(batch))
        wanted = self.items(batch.targets[batch.target_positions])
        with torch.no_grad():
            nearest = torch.einsum("mid,md->mi", interests.float(), wanted.float()).argmax(1)
        return interests[torch.arange(nearest.shape[0], device=nearest.device), nearest]

    def item_table(self) -> Tensor:
        """``[N, D]``."""
        return self.items.table()


def token_numbers(back: Tensor, config: KuaiFormerConfig) -> Tensor:
    """The token of each item, counted from the newest one, given how many items of its row came after it."""
    recent, middle = config.recent, config.middle
    in_middle = recent + (back - recent).div(config.middle_group, rounding_mode="floor")
    early = recent + -(-middle // config.middle_group)
    in_early = early + (back - recent - middle).div(config.early_group, rounding_mode="floor")
    return torch.where(back < recent, back, torch.where(back < recent + middle, in_middle, in_early))

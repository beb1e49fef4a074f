"""Heads over one state: a causal transformer over items that predicts all codes of the next one at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import at_last, at_targets, codes_of, with_start
from genrec_fast.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class ParallelHeadsConfig:
    """Settings of ``ParallelHeads``; the defaults are RPG's."""

    width: int = 448  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 2
    hidden: int = 1024  # channels inside the MLP of a block
    dropout: float = 0.5  # rate, on the input
    block_dropout: float = 0.0  # rate, on what each branch of a block adds
    temperature: float = 0.03  # divides the cosines
    predict_items: bool = False  # the item itself is one more code, of N: read, predicted and scored
    max_items: int = 50  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",), above=("temperature",))
        check_heads("ParallelHeadsConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> ParallelHeads:
        """Makes the backbone; features are not used."""
        return ParallelHeads(self, catalog.codebook_sizes, catalog.num_items)


class ParallelHeads(nn.Module):
    """One position per item, whose input is the mean of its codes' embeddings; one head per level over each state.

    ::

        h_l = x + silu(W_l x + b_l);   logits_l[c] = cos(h_l, e[l, c]) / temperature

    e is the table that the input is read from, W and b are 0 at first. Speaks ``Parallel``.

    Source: RPG (arXiv:2506.05781), section 3.2; the heads are Medusa's (arXiv:2401.10774).
    """

    def __init__(self, config: ParallelHeadsConfig, codebook_sizes: tuple[int, ...], num_items: int) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.codebook_sizes = (*codebook_sizes, num_items) if config.predict_items else codebook_sizes
        self.code_embeddings = nn.Embedding(sum(self.codebook_sizes), width)  # the levels one below the other
        bases = torch.tensor([0, *self.codebook_sizes[:-1]]).cumsum(0)
        self.register_buffer("bases", bases, persistent=False)
        self.positions = nn.Embedding(config.max_items + 1, width)
        self.start = nn.Parameter(torch.empty(width))
        self.input_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, config.hidden, config.block_dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, len(self.codebook_sizes) * width)
        self.apply(init_weights)
        nn.init.zeros_(self.heads.weight)
        nn.init.normal_(self.start, std=0.02)

    bases: Tensor

    def _states(self, batch: Batch) -> Tensor:
        """``[E + B, D]``: each row's start, then its state after each item."""
        codes = codes_of("parallel_heads", batch, self.config.max_items)
        if self.config.predict_items:
            codes = torch.cat([codes, batch.items.values.long().unsqueeze(1)], 1)
        embedded = F.embedding_bag(codes + self.bases, self.code_embeddings.weight, mode="mean")
        x, rows = with_start(embedded, batch.items, self.start, self.config.max_items)
        x = self.input_dropout(x + self.positions(rows.positions))
        for block in self.blocks:
            x = block(x, rows)
        normed: Tensor = self.norm(x)
        return normed

    def _logits(self, states: Tensor) -> list[Tensor]:
        levels, width = len(self.codebook_sizes), self.config.width
        heads = states.unsqueeze(1) + F.silu(self.heads(states)).view(states.shape[0], levels, width)
        users = F.normalize(heads.float(), dim=-1) / self.config.temperature
        tables = F.normalize(self.code_embeddings.weight, dim=-1).split(self.codebook_sizes)
        return [user @ table.T for user, table in zip(users.unbind(1), tables, strict=True)]

    def target_logits(self, batch: Batch) -> list[Tensor]:
        """Per level ``[M, K_l]``, before each target."""
        return self._logits(at_targets(self._states(batch), batch))

    def user_logits(self, batch: Batch) -> list[Tensor]:
        """Per level ``[B, K_l]``, after each whole history."""
        return self._logits(at_last(self._states(batch), batch))

    def code_tables(self) -> list[Tensor]:
        """Per level ``[K_l, D]``: the embeddings of its codes."""
        return list(self.code_embeddings.weight.split(self.codebook_sizes))

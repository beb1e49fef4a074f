"""SEATER: every node of the tree of semantic IDs has a vector of its own, and a history is a row of leaves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import check_length, codes_of_targets
from genrec_fast.nn.packed import row_positions
from genrec_fast.nn.packed_block import PackedBlock
from genrec_fast.nn.transformer import init_weights
from genrec_fast.ops import jagged_attention

ROOT = 0


@dataclass(frozen=True, kw_only=True)
class SeaterConfig:
    """Settings of ``Seater``."""

    width: int = 64  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 1  # of the encoder, and as many of the decoder
    hidden: int = 256  # channels of the feed-forward
    dropout: float = 0.1  # rate
    max_items: int = 50  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self)
        check_heads("SeaterConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Seater:
        """Makes the backbone of one catalog's tree."""
        return Seater(self, catalog)


class Seater(nn.Module):
    """Encoder-decoder over one table of nodes: an item is its leaf, and the decoder writes the way down to one.

    ::

        logit of a child = state at its parent . vector of the child;  -inf where the tree has no such child

    So the softmax of a level runs over the children of one node. Speaks ``Autoregressive`` and ``TeacherForced``, and
    what ``objectives.TreeRanking`` needs. Training asks for the last position of each history (``targets="last"``).

    Args:
        config: settings.
        catalog: with semantic IDs, which make the tree.

    Raises:
        InvalidValueError: a catalog without semantic IDs.

    Notes:
        A table of children takes 8 bytes for each code of each node above the leaves: few codes a level are meant. A
        search runs the decoder over the whole way at every level.

    Source: SEATER (arXiv:2309.13375).
    """

    leaves: Tensor
    first: tuple[int, ...]

    def __init__(self, config: SeaterConfig, catalog: Catalog) -> None:
        super().__init__()
        if catalog.item_codes is None:
            raise InvalidValueError("seater: catalog must have item_codes, got None")
        self.config, self.codebook_sizes = config, catalog.codebook_sizes
        children, self.first, leaves = tree_of(catalog.item_codes.long(), catalog.codebook_sizes)
        for level, table in enumerate(children):
            self.register_buffer(f"children_{level}", table, persistent=False)
        self.register_buffer("leaves", leaves, persistent=False)
        width = config.width
        self.nodes = nn.Embedding(self.first[-1], width)
        self.item_places, self.node_places = nn.Embedding(config.max_items, width), nn.Embedding(len(children), width)
        self.encoder = nn.ModuleList(
            PackedBlock(width, config.num_heads, config.hidden, config.dropout, causal=False, form="bert")
            for _ in range(config.num_layers)
        )
        self.decoder = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.user, self.way = nn.Linear(width, width), nn.Linear(width, width)
        self.joined = nn.Linear(width, width, bias=False)
        self.apply(init_weights)
        nn.init.xavier_normal_(self.joined.weight)

    def edges(self, level: int) -> Tensor:
        """int64 ``[n, K]``: the children of the n nodes above a level, by code; -1 where there is none."""
        table: Tensor = getattr(self, f"children_{level}")
        return table

    def below(self, nodes: Tensor, level: int) -> Tensor:
        """The children of nodes ``[...]`` above a level, ``[..., K]``; none of -1."""
        found = self.edges(level)[(nodes - self.first[level]).clamp(min=0)]
        return found.where(nodes[..., None] >= 0, -1)

    def paths(self, codes: Tensor) -> Tensor:
        """Nodes int64 ``[M, L + 1]`` on the way from the root along codes ``[M, L]``; -1 from where the tree ends."""
        way = [torch.full((len(codes),), ROOT, device=codes.device)]
        for level in range(codes.shape[1]):
            way.append(self.below(way[-1], level).gather(1, codes[:, level : level + 1])[:, 0])
        return torch.stack(way, 1)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States ``[E, D]`` of the histories' items, and their offsets ``[B + 1]``."""
        check_length("seater", batch, self.config.max_items)
        offsets = batch.items.offsets
        x: Tensor = self.nodes(self.leaves[batch.items.values]) + self.item_places(row_positions(offsets))
        for block in self.encoder:
            x = block(x, offsets)
        return x, offsets

    def write(self, ways: Tensor, memory: Tensor, offsets: Tensor) -> Tensor:
        """States ``[R, t, D]`` at the nodes of ways ``[R, t]``, equally many for each user, over their histories."""
        rows, length = ways.shape
        x: Tensor = (self.nodes(ways.clamp(min=0)) + self.node_places.weight[:length]).flatten(0, 1)
        own = torch.arange(rows + 1, device=ways.device) * length
        count = offsets.shape[0] - 1
        over = torch.arange(count + 1, device=ways.device) * (rows // max(count, 1) * length)
        for layer in self.decoder:
            x = layer(x, own, over, memory, offsets)
        return x.view(rows, length, self.config.width)

    def child_logits(self, states: Tensor, nodes: Tensor, level: int) -> Tensor:
        """``[R, K]`` of states ``[R, D]`` at nodes ``[R]``."""
        children = self.below(nodes, level)
        logits = torch.einsum("rkd,rd->rk", self.nodes(children.clamp(min=0)), states)
        return logits.masked_fill(children < 0, -torch.inf)

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[B, K_l]``; every history must have its one target at its last position."""
        states, ways = self.target_states(batch, *self.read(batch))
        return [self.child_logits(states[:, level], ways[:, level], level) for level in range(states.shape[1])]

    def target_states(self, batch: Batch, memory: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[B, L, D]`` at the nodes above the targets' leaves, and the ways ``[B, L + 1]`` to these."""
        targets = codes_of_targets("seater", batch, last=True)
        ways = self.paths(targets)
        return self.write(ways[:, :-1], memory, offsets), ways

    def affinity(self, memory: Tensor, offsets: Tensor, states: Tensor) -> Tensor:
        """``sigmoid(p W q)`` of each user and n ways.

        Args:
            memory: ``[E, D]``, from ``read``; p is the mean of a user's, projected.
            offsets: int64 ``[B + 1]``.
            states: ``[B, n, L, D]``, from ``write``; q is the mean of a way's, projected.

        Returns:
            ``[B, n]``.
        """
        rows = torch.repeat_interleave(offsets.diff())
        read = self.user(memory)
        sums = read.new_zeros(len(states), read.shape[1]).index_add(0, rows, read)
        users = sums / offsets.diff().clamp(min=1)[:, None]
        scores: Tensor = torch.einsum("bd,bnd->bn", self.joined(users), self.way(states).mean(2))
        return scores.sigmoid()

    def prefill(self, batch: Batch) -> Session:
        """Encodes each history once."""
        memory, offsets = self.read(batch)
        return _Ways(self, memory, offsets, torch.full((len(batch), 1, 1), ROOT, device=offsets.device))


def tree_of(codes: Tensor, sizes: tuple[int, ...]) -> tuple[list[Tensor], tuple[int, ...], Tensor]:
    """The tree of semantic IDs: tables of children, the first node of every level, and the leaf of each item.

    Args:
        codes: int64 ``[N, L]``.
        sizes: K of each level.

    Returns:
        Per level int64 ``[n, K]``, the child of each of the n nodes above it by code, -1 where there is none; L + 2
        numbers, the last of which is how many nodes there are, the root included; int64 ``[N]``.
    """
    here, first, tables = torch.zeros_like(codes[:, 0]), [0, 1], []
    for level, size in enumerate(sizes):
        above = first[-1] - first[-2]
        edges, place = torch.unique(here * size + codes[:, level], return_inverse=True)
        table = torch.full((above * size,), -1, dtype=torch.int64, device=codes.device)
        table[edges] = first[-1] + torch.arange(len(edges), device=codes.device)
        tables.append(table.view(above, size))
        first.append(first[-1] + len(edges))
        here = place
    return tables, tuple(first), here + first[-2]


class _Layer(nn.Module):
    """Causal attention along a way, attention to the history, feed-forward; a norm after each sum."""

    def __init__(self, config: SeaterConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.num_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)
        self.own_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, own: Tensor, over: Tensor, memory: Tensor, offsets: Tensor) -> Tensor:
        """``x [R t, D]``, ways at ``own`` and users at ``over``, over ``memory [E, D]`` at ``offsets``."""
        width = x.shape[1]
        heads = (self.heads, width // self.heads)
        queries, keys, values = self.qkv(x).view(-1, 3, *heads).unbind(1)
        seen = jagged_attention(queries, keys, values, own, kind="softmax")
        x = self.own_norm(x + self.dropout(self.out(seen.reshape(-1, width))))
        keys, values = self.keys_values(memory).view(-1, 2, *heads).unbind(1)
        queries = self.query(x).view(-1, *heads)
        seen = jagged_attention(queries, keys, values, over, kind="softmax", causal=False, kv_offsets=offsets)
        x = self.cross_norm(x + self.dropout(self.cross_out(seen.reshape(-1, width))))
        out: Tensor = self.mlp_norm(x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(x)))))
        return out


@dataclass(frozen=True)
class _Ways(Session):
    """A search: users' states ``[E, D]``, their offsets ``[B + 1]``, and the ways of beams ``[B, W, t]``."""

    model: Seater
    memory: Tensor
    offsets: Tensor
    ways: Tensor

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        users, beams, length = self.ways.shape
        flat = self.ways.flatten(0, 1)
        states = self.model.write(flat, self.memory, self.offsets)[:, -1]
        logits = self.model.child_logits(states, flat[:, -1], length - 1)
        return logits.view(users, beams, logits.shape[1]), None

    def extend(self, codes: Tensor, parents: Tensor) -> _Ways:
        length = self.ways.shape[2]
        kept = self.ways.gather(1, parents.long().unsqueeze(2).expand(-1, -1, length))
        below = self.model.below(kept[..., -1], length - 1)
        return dataclasses.replace(self, ways=torch.cat([kept, below.gather(2, codes.long().unsqueeze(2))], 2))

    def select(self, users: Tensor) -> _Ways:
        users = users.to(self.ways.device)
        at = Jagged(self.memory, self.offsets).positions(users)
        return dataclasses.replace(self, memory=self.memory[at.values], offsets=at.offsets, ways=self.ways[users])

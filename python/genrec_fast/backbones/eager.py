"""EAGER: one encoder and two decoders, each of which goes down a tree of its own to the same item."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genrec_fast.backbones.seater import ROOT, Seater, SeaterConfig
from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.histories import check_length, codes_of_targets
from genrec_fast.nn.packed import row_positions
from genrec_fast.nn.packed_block import PackedBlock
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class EagerConfig:
    """Settings of ``Eager``; the defaults are those of EAGER's code."""

    width: int = 96  # channels
    num_heads: int = 4  # a divisor of width
    encoder_layers: int = 1
    decoder_layers: int = 2  # of each decoder
    hidden: int = 1024  # channels of the feed-forward
    dropout: float = 0.1  # rate
    max_items: int = 19  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self)
        check_heads("EagerConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Eager:
        """Makes the backbone of one catalog's two trees."""
        return Eager(self, catalog)


class Eager(nn.Module):
    """Two decoders over one encoder: the first half of a semantic ID is the one's, the second half the other's.

    ::

        memory_s   encoder(items' vectors of stream s, places)               s = 0, 1; one encoder
        logit of a child = state of decoder s at its parent . vector of the child;   -inf where there is no such child
        log p(item) = sum over s and its levels of log p_s(code | history, codes before it in tree s)

    Neither decoder sees what the other wrote. So the log-probability that a search sums over both halves is the sum
    of both decoders' scores, and the best items under it are those that EAGER looks for: it takes lists of both
    decoders and ranks their union by this sum.

    Of L levels the first L // 2 are the first decoder's; a catalog of one level has one decoder. Speaks
    ``Autoregressive`` and ``TeacherForced``; training asks for the last position of each history
    (``targets="last"``).

    Args:
        config: settings.
        catalog: with semantic IDs, such as ``tokenizers.TwoTrees`` makes.

    Raises:
        InvalidValueError: a catalog without semantic IDs.

    Notes:
        A decoder is ``Seater``'s, with a vector per node of its tree. A search runs it over its whole way at every
        level.

    Source: EAGER (arXiv:2406.14017), and its code (yewzz/EAGER) as its script runs it.
    """

    def __init__(self, config: EagerConfig, catalog: Catalog) -> None:
        super().__init__()
        if catalog.item_codes is None:
            raise InvalidValueError("eager: catalog must have item_codes, got None")
        self.config, self.codebook_sizes = config, catalog.codebook_sizes
        width, levels = config.width, len(catalog.codebook_sizes)
        self.first = tuple(sorted({0, levels // 2}))  # the first level of each stream
        spans = itertools.pairwise((*self.first, levels))
        self.streams = nn.ModuleList(_Stream(config, catalog, *span) for span in spans)
        self.item_places = nn.Embedding(config.max_items, width)
        self.encoder = nn.ModuleList(
            PackedBlock(width, config.num_heads, config.hidden, config.dropout, causal=False, form="bert")
            for _ in range(config.encoder_layers)
        )
        self.apply(init_weights)

    def read(self, batch: Batch) -> list[Tensor]:
        """Per stream, states ``[E, D]`` of the histories' items."""
        check_length("eager", batch, self.config.max_items)
        offsets, found = batch.items.offsets, []
        places = self.item_places(row_positions(offsets))
        for stream in self.streams:
            assert isinstance(stream, _Stream)
            x = stream.items(batch.items.values) + places
            for block in self.encoder:
                x = block(x, offsets)
            found.append(x)
        return found

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[B, K_l]``; every history must have its one target at its last position."""
        targets = codes_of_targets("eager", batch, last=True)
        found = []
        ends = (*self.first[1:], len(self.codebook_sizes))
        for stream, memory, first, end in zip(self.streams, self.read(batch), self.first, ends, strict=True):
            assert isinstance(stream, _Stream)
            ways = stream.paths(targets[:, first:end])
            states = stream.write(ways[:, :-1], memory, batch.items.offsets)
            found += [stream.child_logits(states[:, at], ways[:, at], at) for at in range(end - first)]
        return found

    def prefill(self, batch: Batch) -> Session:
        """Encodes each history once for each decoder."""
        root = torch.full((len(batch), 1, 1), ROOT, device=batch.items.offsets.device)
        return _Ways(self, tuple(self.read(batch)), batch.items.offsets, root, 0)


class _Stream(Seater):
    """A decoder over the tree of some levels, and the vectors by which its items are read."""

    def __init__(self, config: EagerConfig, catalog: Catalog, first: int, end: int) -> None:
        assert catalog.item_codes is not None
        own = SeaterConfig(
            width=config.width,
            num_heads=config.num_heads,
            num_layers=config.decoder_layers,
            hidden=config.hidden,
            dropout=config.dropout,
            max_items=config.max_items,
        )
        super().__init__(own, catalog.with_codes(catalog.item_codes[:, first:end], catalog.codebook_sizes[first:end]))
        del self.encoder, self.item_places, self.user, self.way, self.joined  # one encoder reads, nothing is ranked
        self.items = nn.Embedding(catalog.num_items, config.width)


@dataclass(frozen=True)
class _Ways(Session):
    """A search: per stream users' states ``[E, D]``, offsets ``[B + 1]``, and ways ``[B, W, t]`` in one tree."""

    model: Eager
    memory: tuple[Tensor, ...]
    offsets: Tensor
    ways: Tensor
    level: int

    def _at(self) -> tuple[_Stream, int]:
        """The stream that writes the level, and its number."""
        number = sum(self.level >= first for first in self.model.first) - 1
        stream = self.model.streams[number]
        assert isinstance(stream, _Stream)
        return stream, number

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        (stream, number), (users, beams, length) = self._at(), self.ways.shape
        flat = self.ways.flatten(0, 1)
        states = stream.write(flat, self.memory[number], self.offsets)[:, -1]
        logits = stream.child_logits(states, flat[:, -1], length - 1)
        return logits.view(users, beams, logits.shape[1]), None

    def extend(self, codes: Tensor, parents: Tensor) -> _Ways:
        level = self.level + 1
        if level in self.model.first:  # the other tree, whatever was written in this one
            return dataclasses.replace(self, ways=torch.full((*codes.shape, 1), ROOT, device=codes.device), level=level)
        stream, length = self._at()[0], self.ways.shape[2]
        kept = self.ways.gather(1, parents.long().unsqueeze(2).expand(-1, -1, length))
        below = stream.below(kept[..., -1], length - 1).gather(2, codes.long().unsqueeze(2))
        return dataclasses.replace(self, ways=torch.cat([kept, below], 2), level=level)

    def select(self, users: Tensor) -> _Ways:
        users = users.to(self.ways.device)
        at = Jagged(self.memory[0], self.offsets).positions(users)
        memory = tuple(states[at.values] for states in self.memory)
        return dataclasses.replace(self, memory=memory, offsets=at.offsets, ways=self.ways[users])
